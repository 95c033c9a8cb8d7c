-- Reads what changed after a revision.
--   keys    as above
--   args    1 the revision; 2 how the keys begin
--   result  nil if the store does not know this revision, or not any more; else the revision, and key and entry of each
--           key that changed, in the order of the changes
local since, prefix = tonumber(ARGV[1]), ARGV[2]
local revision, forgotten = number('revision'), number('forgotten')

-- A revision that the log does not hold was of data that are lost, by FLUSHALL, a failover or a crash: what else was lost
-- with it cannot be told. Who has seen nothing yet misses nothing while nothing was forgotten.
local known = since == revision or since == forgotten
if not known and since > forgotten then
  local from, to = struct.pack('>I8', since), struct.pack('>I8', since + 1)
  known = #redis.call('ZRANGE', LOG, '[' .. from, '(' .. to, 'BYLEX', 'LIMIT', 0, 1) > 0
end
if not known then
  return false
end

local members = redis.call('ZRANGE', LOG, '[' .. struct.pack('>I8', since + 1), '+', 'BYLEX')
local last = {}
for place, member in ipairs(members) do
  last[string.sub(member, 11)] = place
end
local answer = { revision }
for place, member in ipairs(members) do
  local key = string.sub(member, 11)
  if last[key] == place and string.sub(key, 1, #prefix) == prefix then
    answer[#answer + 1] = key
    answer[#answer + 1] = redis.call('HGET', STATES, member)
  end
end
return answer
