-- Pushes all items or none.
--   keys    as above
--   args    1 the channel of the queue; 2 how many items may be in it, or -1; then for each item: id, urgency, delay in
--           microseconds, the group after one byte or nothing, the payload
--   result  how many of them were new; or -1 if there is no room for these
--   tells   the channel, if an item is ready or is the first of the delayed
-- Sent again, it finds the ids that it pushed.
local CAPACITY = tonumber(ARGV[2])
local FIRST, STRIDE = 3, 5

local seen, new = {}, {}
for at = FIRST, #ARGV, STRIDE do
  local id = ARGV[at]
  if not seen[id] and redis.call('HEXISTS', ITEMS, id) == 0 and not recall(id) then
    new[#new + 1] = at
  end
  seen[id] = true
end
if #new == 0 then
  return 0
end
if CAPACITY >= 0 and redis.call('HLEN', ITEMS) - redis.call('ZCARD', DEAD) + #new > CAPACITY then
  -- Who is refused asks again within two seconds, or has given up.
  redis.call('SET', FULL, '', 'PX', 10000)
  return -1
end
local place = numbers(#new)
if not place then
  return redis.error_reply(EXHAUSTED)
end
for _, at in ipairs(new) do
  place = place + 1
  local item = {
    id = ARGV[at], status = 'q', place = place, ready = NOW + tonumber(ARGV[at + 2]), pushed = NOW, attempts = 0,
    returned = 0, token = 0, expires = 0, receive = NOBODY, urgency = ARGV[at + 1],
  }
  if #ARGV[at + 3] > 0 then
    item.group = string.sub(ARGV[at + 3], 2)
  end
  store(item)
  redis.call('HSET', PAYLOADS, item.id, ARGV[at + 4])
  if item.group then
    redis.call('ZADD', GROUPS, 0, member(item))
  end
  line_up(item)
end
count(place)
forget(100)
tell(ARGV[1])
return #new
