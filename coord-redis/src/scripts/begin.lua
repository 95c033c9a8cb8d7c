-- What every script about a line of claims begins with: what there is.
--
-- keys (stable on the wire, as are the fields)
--   1 line     sorted set: id -> token
--   2 claims   hash: id -> record; 'e' .. id -> when its lease ends; 'm' -> meta; 'f' -> our value at the name
--   3 the name itself, in the layout for other clients: a string that is there, and is ours, while a claim is granted. It is
--     put there as `SET name value NX PX` does; as long as another value is there, another client holds
-- arguments
--   1 the id of the client that asks, 2 the channel on which changes of the line are told, 3 an id, if there is one
-- record
--   token f64, weight u32, limit u32, priority i32, granted f64 (0: it waits), joined f64, client (32 bytes), length of the
--   owner (1 byte), owner, value
-- meta
--   eight f64: the last token or revision; the weight of all claims; how many there are; how many of them wait; the greatest
--   limit and the least priority since the line was last empty; no lease ends before; when both keys expire
-- Numbers are big-endian, moments are milliseconds since 1970 on the server's clock. The hash outlives the line, because of
-- the last token, by a day at least.
-- A hint is sent to the channel 'coord:client:' .. id of the claim's client: the ids of claims, sixteen bytes each. Those of
-- the client that asks are answered instead.
local LINE, CLAIMS, PLACE = KEYS[1], KEYS[2], KEYS[3]
local ME, NEWS = ARGV[1], ARGV[2]
local LAST = 9007199254740991 -- The greatest token: numbers are doubles here.
local DAY = 86400000
local RECORD, META = '>dI4I4i4ddc32', '>dddddddd'
local CLIENT = 37 -- Where the client begins in a record.
local call = redis.call

local time = call('TIME')
local micros = time[1] * 1000000 + time[2]
local now = math.floor(micros / 1000)
-- A clock that reads a date beyond 2112 is wrong, and would use up the tokens.
local floor = micros < 4503599627370496 and micros or 0

local records, ends = {}, {}
local meta
if ARGV[3] then
    local found = call('HMGET', CLAIMS, 'm', ARGV[3], 'e' .. ARGV[3])
    meta, records[ARGV[3]], ends[ARGV[3]] = found[1], found[2], found[3]
else
    meta = call('HGET', CLAIMS, 'm')
end
local count, weight, card, waiting, greatest, least, soonest, expires = 0, 0, 0, 0, 0, 0, math.huge, 0
if meta then
    count, weight, card, waiting, greatest, least, soonest, expires = struct.unpack(META, meta)
end

-- Tells those who watch the line that it has changed. That may be lost, so what goes wrong with it does not matter.
local function tell()
    local listeners = redis.pcall('PUBSUB', 'NUMSUB', NEWS)
    if listeners.err or listeners[2] > 0 then
        redis.pcall('PUBLISH', NEWS, '')
    end
end
