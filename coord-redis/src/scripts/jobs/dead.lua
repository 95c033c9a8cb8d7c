-- Reads items that were given up, the oldest first.
--   keys    as above
--   args    1 the channel of the queue; 2 the id of the item before the first, or nothing; 3 how many at most
--   result  id, item and payload of each. There may be fewer than asked for, and yet more.
local after = redis.call('ZSCORE', DEAD, ARGV[2])
local from = after and '(' .. decimal(tonumber(after)) or '-inf'
local answer, bytes = {}, 0
for _, id in ipairs(redis.call('ZRANGE', DEAD, from, '+inf', 'BYSCORE', 'LIMIT', 0, ARGV[3])) do
  local payload = redis.call('HGET', PAYLOADS, id)
  answer[#answer + 1] = id
  answer[#answer + 1] = redis.call('HGET', ITEMS, id)
  answer[#answer + 1] = payload
  bytes = bytes + #payload
  if bytes >= ENOUGH then
    break
  end
end
return answer
