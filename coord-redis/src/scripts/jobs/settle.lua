-- Settles deliveries, each by itself.
--   keys    as above
--   args    1 the channel of the queue; then for each: id, token, word (ack, nack, return, extend), microseconds to wait or
--           to be leased for, after how many attempts the item is dead, or 0
--   result  for each 1 if it counts, 0 if it is stale
--   tells   the channel, if an item became ready, or there is room and somebody wants it
-- Sent again, it finds what it did.
local FIRST, STRIDE = 2, 5

local acked = 0
local function settle(id, token, word, micros, max)
  local item = read(id)
  if not item then
    local _, with = recall(id)
    return word == 'ack' and with == token
  end
  if item.status == 'd' then
    return word == 'nack' and item.returned == token
  end
  if item.token ~= token then
    return (word == 'nack' or word == 'return') and item.returned == token
  end
  -- Its lease has ended, and nobody has looked since.
  if item.expires <= NOW then
    return false
  end
  if word == 'extend' then
    if NOW + micros > item.expires then
      -- A write that frees memory comes first.
      redis.call('ZREM', LEASED, id)
      item.expires = NOW + micros
      store(item)
      redis.call('ZADD', LEASED, item.expires, id)
    end
    return true
  end
  if word == 'ack' then
    redis.call('HDEL', ITEMS, id)
    redis.call('HDEL', PAYLOADS, id)
    unlease(item)
    remember(id, token)
    leave(item)
    acked, told.room = acked + 1, true
    return true
  end
  if word == 'nack' and max > 0 and item.attempts >= max then
    local seat = numbers(1)
    if not seat then
      return false
    end
    unlease(item)
    item.returned = token
    bury(item, seat + 1)
    count(seat + 1)
    return true
  end
  unlease(item)
  item.returned = token
  if word == 'return' then
    item.attempts = math.max(item.attempts - 1, 0)
  else
    item.ready = NOW + micros
  end
  come_back(item)
  return true
end

local answer = {}
for at = FIRST, #ARGV, STRIDE do
  local settled = settle(ARGV[at], tonumber(ARGV[at + 1]), ARGV[at + 2], tonumber(ARGV[at + 3]), tonumber(ARGV[at + 4]))
  answer[#answer + 1] = settled and 1 or 0
end
if acked > 0 then
  forget(100 + 2 * acked)
  keep_gone()
end
tell(ARGV[1])
return answer
