-- Puts dead items back at the end of the queue, in the order of their deaths, with no attempts counted.
--   keys    as above
--   args    1 the channel of the queue; then the ids
--   result  how many there were
--   tells   the channel, if an item became ready
-- Sent again, it finds none of them dead.
local items = {}
for at = 2, #ARGV do
  local seat = redis.call('ZSCORE', DEAD, ARGV[at])
  if seat then
    items[#items + 1] = { ARGV[at], tonumber(seat) }
  end
end
table.sort(items, function(one, other) return one[2] < other[2] end)
local place = numbers(#items)
if not place then
  return redis.error_reply(EXHAUSTED)
end
local count_of = 0
for _, entry in ipairs(items) do
  -- An id that was given twice is taken once.
  if redis.call('ZREM', DEAD, entry[1]) == 1 then
    count_of, place = count_of + 1, place + 1
    local item = read(entry[1])
    item.status, item.place, item.ready, item.pushed = 'q', place, NOW, NOW
    item.attempts, item.returned = 0, 0
    store(item)
    if item.group then
      redis.call('ZADD', GROUPS, 0, member(item))
    end
    line_up(item)
  end
end
if count_of > 0 then
  count(place)
end
tell(ARGV[1])
return count_of
