-- One queue. This piece stands in front of every script of this folder.
--
-- Keys, the same in all of them, under the hash tag `<namespace>/queue/<name>`:
--    1  items     HASH  id -> item
--    2  payloads  HASH  id -> what the item carries
--    3  ready     ZSET  what can be delivered, score 0: urgency (4 bytes), place (8), id (16)
--    4  delayed   ZSET  ids by the moment from which they are ready
--    5  leased    ZSET  ids by the moment at which their leases end
--    6  receives  ZSET  what each receive has in hand, score 0: its id (16), token (8), id (16)
--    7  groups    ZSET  the items of groups, score 0: length of the group's name (1), name, place (8), id (16)
--    8  tried     ZSET  ids of items that came back, by their attempts
--    9  dead      ZSET  ids of items that were given up, in the order of their deaths
--   10  gone      HASH  ids that were acknowledged or dropped lately -> until when they are known, token or 0 (8 each)
--   11  forget    LIST  the same in their order: until when (8), id (16)
--   12  counter   STRING  the last place or token given out. It ends after a day without use; then the clock has passed it.
--   13  full      STRING  there is no room, and somebody wants to push
--   14  purged    HASH  the payloads, within a purge
--
-- An item stands in exactly one of these: `leased`; `delayed`; `ready`; behind another item of its group; `dead`. Behind
-- another one it may also be `delayed`. Only the first of a group can be ready or leased.
--
-- A full server (maxmemory) lets a script that begins with a write that frees memory do the others too. What takes items out
-- of the queue begins so, or a queue that filled its server would stay full.
--
-- Stable on the wire: an item is its status (1 byte: q queued, l leased, d dead), place, ready, pushed (8 each, the greatest
-- first), attempts (4), token of the delivery that was given back last or 0 (of a dead item: by whose word it died), token of this
-- delivery or 0, end of the lease (8 each), the receive (16), urgency (4: the greatest priority less the item's), its group after one byte, or nothing.
-- Moments are microseconds since 1970 by the server's clock; of a dead item, `ready` is the moment of its death.
-- All numbers are below 2^53, so that they are exact here.
local ITEMS, PAYLOADS, READY, DELAYED, LEASED, RECEIVES, GROUPS, TRIED, DEAD, GONE, FORGET, COUNTER, FULL, PURGED =
  unpack(KEYS)

-- How many items whose time has come are looked at in one step.
local BOUND = 500
-- How long an id is known after its item is gone, and the counter after its last use.
local MEMORY, DAY = 600000000, 86400000
-- Payloads may be long: an answer ends after the one that reaches this many bytes.
local ENOUGH = 4194304
local NOBODY = string.rep('\0', 16)
local LAYOUT = '>c1I8I8I8I4I8I8I8c16c4'

local time = redis.call('TIME')
local NOW = tonumber(time[1]) * 1000000 + tonumber(time[2])

local function decimal(number)
  return string.format('%.0f', number)
end

local function decode(id, bytes)
  local item = { id = id }
  local rest
  item.status, item.place, item.ready, item.pushed, item.attempts, item.returned, item.token, item.expires, item.receive,
    item.urgency, rest = struct.unpack(LAYOUT, bytes)
  item.group = #bytes >= rest and string.sub(bytes, rest + 1) or nil
  return item
end

local function read(id)
  local bytes = redis.call('HGET', ITEMS, id)
  return bytes and decode(id, bytes)
end

local function encode(item)
  return struct.pack(LAYOUT, item.status, item.place, item.ready, item.pushed, item.attempts, item.returned, item.token,
    item.expires, item.receive, item.urgency) .. (item.group and 'g' .. item.group or '')
end

-- Stores the item; its bytes.
local function store(item)
  local bytes = encode(item)
  redis.call('HSET', ITEMS, item.id, bytes)
  return bytes
end

-- Reserves places or tokens: the number before the first of them, or nil if there are not so many. Written by `count`.
local function numbers(many)
  -- A clock that reads a date beyond 2112 is wrong, and would use up the numbers.
  local floor = NOW < 4503599627370496 and NOW - 1 or 0
  local last = math.max(tonumber(redis.call('GET', COUNTER)) or 0, floor)
  return last + many < 9007199254740992 and last or nil
end

local function count(last)
  redis.call('SET', COUNTER, decimal(last), 'PX', DAY)
end

local EXHAUSTED = 'EXHAUSTED the numbers for places and tokens are used up'

local function rank(item)
  return item.urgency .. struct.pack('>I8', item.place) .. item.id
end

local function kin(group)
  return struct.pack('B', #group) .. group
end

local function member(item)
  return kin(item.group) .. struct.pack('>I8', item.place) .. item.id
end

-- The place of the first item of a group, as its member says it.
local function head(group)
  local from = kin(group)
  return redis.call('ZRANGE', GROUPS, '[' .. from .. '\0', '(' .. from .. '\255', 'BYLEX', 'LIMIT', 0, 1)[1]
end

-- What changed for those who wait at the queue.
local told = { ready = false, room = false }

-- While others are ready nobody waits who has not been hinted: he would have taken them.
local function make_ready(item)
  told.ready = told.ready or redis.call('ZCARD', READY) == 0
  redis.call('ZADD', READY, 0, rank(item))
end

-- An item that nobody has takes its place. Before its moment it is delayed; behind another one of its group it waits.
local function line_up(item)
  if item.ready > NOW then
    redis.call('ZADD', DELAYED, item.ready, item.id)
    local first = redis.call('ZRANGE', DELAYED, 0, 0)[1]
    -- Those who wait know of no earlier moment.
    told.ready = told.ready or first == item.id
  elseif not item.group or head(item.group) == member(item) then
    make_ready(item)
  end
end

-- The item leaves its group, so that the next one may be delivered.
local function leave(item)
  if not item.group then
    return
  end
  redis.call('ZREM', GROUPS, member(item))
  local first = head(item.group)
  if not first then
    return
  end
  local id = string.sub(first, -16)
  if not redis.call('ZSCORE', DELAYED, id) then
    make_ready(read(id))
  end
end

-- Nobody has the item any more. Its record is not stored.
local function unlease(item)
  redis.call('ZREM', LEASED, item.id)
  redis.call('ZREM', RECEIVES, item.receive .. struct.pack('>I8', item.token) .. item.id)
  item.status, item.token, item.expires, item.receive = 'q', 0, 0, NOBODY
end

-- An item that was in somebody's hands takes its place again.
local function come_back(item)
  store(item)
  if item.attempts > 0 then
    redis.call('ZADD', TRIED, item.attempts, item.id)
  end
  line_up(item)
end

-- Gives an item up that nobody has and that stands in no line. `seat` is its place among the dead.
local function bury(item, seat)
  item.status, item.ready = 'd', NOW
  store(item)
  redis.call('ZADD', DEAD, seat, item.id)
  leave(item)
  told.room = true
end

-- The id of an item that is gone stays known for a while.
local function remember(id, token)
  local moment = NOW + MEMORY
  redis.call('HSET', GONE, id, struct.pack('>I8I8', moment, token))
  redis.call('RPUSH', FORGET, struct.pack('>I8', moment) .. id)
end

-- Until when an id that is gone is known, and the token; nil if it is not.
local function recall(id)
  local bytes = redis.call('HGET', GONE, id)
  if not bytes then
    return nil
  end
  local moment, token = struct.unpack('>I8I8', bytes)
  if moment <= NOW then
    return nil
  end
  return moment, token
end

-- Forgets ids, more than one step adds.
local function forget(many)
  local first = redis.call('LINDEX', FORGET, 0)
  if not first or struct.unpack('>I8', first) > NOW then
    return
  end
  local old = 0
  for _, entry in ipairs(redis.call('LRANGE', FORGET, 0, many - 1)) do
    if struct.unpack('>I8', entry) > NOW then
      break
    end
    old = old + 1
    local id = string.sub(entry, 9)
    -- The same id may be known anew.
    if not recall(id) then
      redis.call('HDEL', GONE, id)
    end
  end
  redis.call('LTRIM', FORGET, old, -1)
end

-- Once nothing more is added, all of them end together.
local function keep_gone()
  if redis.call('PTTL', GONE) < MEMORY / 1000 then
    redis.call('PEXPIRE', GONE, MEMORY / 500)
    redis.call('PEXPIRE', FORGET, MEMORY / 500)
  end
end

-- Those who wait are hinted when something became ready, and at room only when somebody was refused for want of it.
local function tell(channel)
  if told.room and redis.call('DEL', FULL) == 1 then
    told.ready = true
  end
  if told.ready then
    -- A hint that is lost costs time. An error here would hide what was done.
    redis.pcall('PUBLISH', channel, '')
  end
end
