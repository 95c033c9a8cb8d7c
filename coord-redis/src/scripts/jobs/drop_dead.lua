-- Drops dead items.
--   keys    as above
--   args    1 the channel of the queue; then the ids
--   result  how many there were
-- Sent again, it finds none of them.
local dropped = 0
for at = 2, #ARGV do
  local id = ARGV[at]
  if redis.call('ZREM', DEAD, id) == 1 then
    dropped = dropped + 1
    redis.call('HDEL', ITEMS, id)
    redis.call('HDEL', PAYLOADS, id)
    remember(id, 0)
  end
end
if dropped > 0 then
  forget(100 + 2 * dropped)
  keep_gone()
end
return dropped
