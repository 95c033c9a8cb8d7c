-- Does all writes of a transaction or none.
--   keys    as above; 6 done STRING  the revision of this transaction, for a while
--   args    1 the channel of the namespace; 2 the author's name; 3 for how many milliseconds the transaction is remembered;
--           4 how many changes the log holds; 5 how many bytes; then for each write: the key, the condition
--           (any, absent, version, token), its number, the change (put, delete, fence), the value
--   result  1 and the revision; or 0, which of the writes was refused (from 0), and the entry that it found, or nil
--   tells   the channel, if a value changed: the changed keys, each behind its length (1 byte), or nothing if these are many
-- Sent again, it finds itself done.
local CHANNEL, BY, MEMORY = ARGV[1], ARGV[2], ARGV[3]
local PLACES, BYTES = tonumber(ARGV[4]), tonumber(ARGV[5])
local FIRST, STRIDE = 6, 5
local LONG_HINT = 8192

local done = redis.call('GET', KEYS[6])
if done then
  return { 1, tonumber(done) }
end

local function holds(condition, given, mark, version, has_value)
  if condition == 'token' then
    return mark <= given
  end
  if mark > 0 then
    return false
  end
  if condition == 'version' then
    return has_value and version == given
  end
  return condition == 'any' or (condition == 'absent' and not has_value)
end

local found = {}
local changes = false
for at = FIRST, #ARGV, STRIDE do
  local entry = redis.call('HGET', ENTRIES, ARGV[at])
  local mark, version, has_value = 0, 0, false
  if entry then
    local _, flag
    version, mark, _, flag = struct.unpack('>I8I8I8B', entry)
    has_value = flag == 1
  end
  if not holds(ARGV[at + 1], tonumber(ARGV[at + 2]), mark, version, has_value) then
    return { 0, (at - FIRST) / STRIDE, entry }
  end
  local change = ARGV[at + 3]
  if change == 'delete' and not has_value then
    -- There is nothing to delete; a token raises the mark all the same.
    change = ARGV[at + 1] == 'token' and 'fence' or 'none'
  end
  local value = change == 'put' or change == 'delete'
  -- Long entries that are replaced are not kept meanwhile.
  found[at] = { not value and entry, mark, change }
  changes = changes or value
end

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
-- A fence alone changes no value, so the revision stays.
local revision, bytes = number('revision'), number('bytes')
if changes then
  -- A clock that reads a date beyond 2112 is wrong, and would use up the revisions.
  revision = math.max(revision + 1, now < 4503599627370496 and now or 0)
  if revision >= 9007199254740992 then
    return redis.error_reply('EXHAUSTED the numbers for revisions are used up')
  end
end

local hint = {}
for at = FIRST, #ARGV, STRIDE do
  local key, value = ARGV[at], ARGV[at + 4]
  local entry, mark, change = unpack(found[at], 1, 3)
  if ARGV[at + 1] == 'token' then
    mark = math.max(mark, tonumber(ARGV[at + 2]))
  end
  if change == 'fence' then
    if entry then
      entry = string.sub(entry, 1, 8) .. struct.pack('>I8', mark) .. string.sub(entry, 17)
    else
      entry = struct.pack('>I8I8I8BB', revision, mark, now, 0, #BY) .. BY
    end
    redis.call('HSET', ENTRIES, key, entry)
  elseif change ~= 'none' then
    local put = change == 'put'
    entry = struct.pack('>I8I8I8BB', revision, mark, now, put and 1 or 0, #BY) .. BY .. (put and value or '')
    -- What frees memory comes first: it is allowed when there is none, and lets the rest pass.
    if not put then
      redis.call('ZREM', ORDER, key)
    end
    if put or mark > 0 then
      redis.call('HSET', ENTRIES, key, entry)
    else
      redis.call('HDEL', ENTRIES, key)
    end
    if put then
      redis.call('ZADD', ORDER, 0, key)
    end
    local member = struct.pack('>I8I2', revision, (at - FIRST) / STRIDE) .. key
    redis.call('ZADD', LOG, 0, member)
    redis.call('HSET', STATES, member, entry)
    bytes = bytes + #member + #entry
    hint[#hint + 1] = struct.pack('B', #key) .. key
  end
end
redis.call('SET', KEYS[6], string.format('%.0f', revision), 'PX', MEMORY)
if not changes then
  return { 1, revision }
end

local places = redis.call('ZCARD', LOG)
local forgotten
while places > PLACES or bytes > BYTES do
  local member = redis.call('ZPOPMIN', LOG)[1]
  bytes = bytes - #member - redis.call('HSTRLEN', STATES, member)
  redis.call('HDEL', STATES, member)
  forgotten = struct.unpack('>I8', member)
  places = places - 1
end
redis.call('HSET', META, 'revision', revision, 'bytes', bytes)
if forgotten then
  redis.call('HSET', META, 'forgotten', forgotten)
end
hint = table.concat(hint)
-- A hint that is lost costs time. An error here would leave half of a transaction's answer.
redis.pcall('PUBLISH', CHANNEL, #hint <= LONG_HINT and hint or '')
return { 1, revision }
