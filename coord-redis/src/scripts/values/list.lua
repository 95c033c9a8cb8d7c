-- Reads the values of some keys in the order of their bytes.
--   keys    as above
--   args    1, 2 the range, as ZRANGE takes it with BYLEX; 3 how many at most
--   result  the revision; whether there are more; key and entry of each. There may be fewer than asked for and yet more.
local limit = tonumber(ARGV[3])
local keys = redis.call('ZRANGE', ORDER, ARGV[1], ARGV[2], 'BYLEX', 'LIMIT', 0, limit + 1)
local answer, bytes = { number('revision'), 0 }, 0
for place, key in ipairs(keys) do
  if place > limit or bytes >= ENOUGH then
    answer[2] = 1
    break
  end
  local entry = redis.call('HGET', ENTRIES, key)
  bytes = bytes + #entry
  answer[#answer + 1] = key
  answer[#answer + 1] = entry
end
return answer
