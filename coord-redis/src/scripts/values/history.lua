-- Reads the last states of one key, the newest first.
--   keys    as above
--   args    1 the key; 2 how many at most
--   result  the entries
local limit = tonumber(ARGV[2])
local answer = {}
for _, member in ipairs(redis.call('ZRANGE', LOG, 0, -1, 'REV')) do
  if #answer == limit then
    break
  end
  if string.sub(member, 11) == ARGV[1] then
    answer[#answer + 1] = redis.call('HGET', STATES, member)
  end
end
return answer
