-- Removes all items that nobody has in hand, and the dead. It costs as much as there are items in hand.
--   keys    as above
--   args    1 the channel of the queue
--   result  how many there were
--   tells   the channel, if somebody wants room
-- Sent again, it finds nothing to remove.
local all = redis.call('HLEN', ITEMS)
local kept = {}
for place, id in ipairs(redis.call('ZRANGE', LEASED, '(' .. decimal(NOW), '+inf', 'BYSCORE')) do
  kept[place] = read(id)
end
if all == #kept then
  return 0
end
redis.call('RENAME', PAYLOADS, PURGED)
redis.call('UNLINK', ITEMS, READY, DELAYED, LEASED, RECEIVES, GROUPS, TRIED, DEAD)
for _, item in ipairs(kept) do
  store(item)
  redis.call('HSET', PAYLOADS, item.id, redis.call('HGET', PURGED, item.id))
  redis.call('ZADD', LEASED, item.expires, item.id)
  redis.call('ZADD', RECEIVES, 0, item.receive .. struct.pack('>I8', item.token) .. item.id)
  if item.group then
    redis.call('ZADD', GROUPS, 0, member(item))
  end
end
redis.call('UNLINK', PURGED)
told.room = true
tell(ARGV[1])
return all - #kept
