-- Leases deliveries.
--   keys    as above
--   args    1 the channel of the queue; 2 the receive's id; 3 how many at most; 4 the lease in microseconds; 5 after how many
--           attempts an item is dead, or 0
--   result  whether there is more to be put in order first, so that the same is to be asked again; if there are no
--           deliveries, microseconds until the next moment at which one may be ready, or -1; id, item and payload of each
--           delivery. There may be fewer than asked for.
--   tells   the channel, if somebody wants room and there is
-- Sent again while its deliveries are leased, it finds them.
local RECEIVE, LIMIT, LEASE, MAX = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])

local answer, bytes = { 0, -1 }, 0
local function deliver(item, record, payload)
  answer[#answer + 1] = item.id
  answer[#answer + 1] = record
  answer[#answer + 1] = payload
end

local mine = redis.call('ZRANGE', RECEIVES, '[' .. RECEIVE, '(' .. RECEIVE .. '\255', 'BYLEX')
for _, entry in ipairs(mine) do
  local item = read(string.sub(entry, 25))
  if item.expires > NOW then
    deliver(item, encode(item), redis.call('HGET', PAYLOADS, item.id))
  end
end
if #answer > 2 then
  return answer
end

-- First those whose time has come, a bounded number of them: a later one of these may be the next to be delivered.
local expired = redis.call('ZRANGE', LEASED, '-inf', NOW, 'BYSCORE', 'LIMIT', 0, BOUND)
for _, id in ipairs(expired) do
  local item = read(id)
  unlease(item)
  come_back(item)
end
local passed = redis.call('ZRANGE', DELAYED, '-inf', NOW, 'BYSCORE', 'LIMIT', 0, BOUND)
for _, id in ipairs(passed) do
  redis.call('ZREM', DELAYED, id)
  line_up(read(id))
end
local spent = {}
if MAX > 0 then
  for place, id in ipairs(redis.call('ZRANGE', TRIED, MAX, '+inf', 'BYSCORE', 'LIMIT', 0, BOUND)) do
    spent[place] = read(id)
  end
  table.sort(spent, function(one, other) return one.place < other.place end)
  local seat = numbers(#spent)
  if not seat then
    return redis.error_reply(EXHAUSTED)
  end
  for place, item in ipairs(spent) do
    redis.call('ZREM', READY, rank(item))
    redis.call('ZREM', DELAYED, item.id)
    redis.call('ZREM', TRIED, item.id)
    -- Not by the word of its last receiver: that one is late.
    item.returned = 0
    bury(item, seat + place)
  end
  if #spent > 0 then
    count(seat + #spent)
  end
end
-- Nobody has to be hinted at what becomes ready by time: who waits looks by himself then.
told.ready = false
if #expired == BOUND or #passed == BOUND or #spent == BOUND then
  answer[1] = 1
  tell(ARGV[1])
  return answer
end

local next, payloads = LIMIT > 0 and redis.call('ZRANGE', READY, 0, LIMIT - 1) or {}, {}
for place, entry in ipairs(next) do
  if bytes >= ENOUGH then
    break
  end
  payloads[place] = redis.call('HGET', PAYLOADS, string.sub(entry, 13))
  bytes = bytes + #payloads[place]
end
local taken = #payloads
local token = numbers(taken)
if not token then
  return redis.error_reply(EXHAUSTED)
end
if taken > 0 then
  redis.call('ZREMRANGEBYRANK', READY, 0, taken - 1)
end
for place, payload in ipairs(payloads) do
  local item = read(string.sub(next[place], 13))
  if item.attempts > 0 then
    redis.call('ZREM', TRIED, item.id)
  end
  item.status, item.token, item.expires, item.receive = 'l', token + place, NOW + LEASE, RECEIVE
  item.attempts = item.attempts + 1
  deliver(item, store(item), payload)
  redis.call('ZADD', LEASED, item.expires, item.id)
  redis.call('ZADD', RECEIVES, 0, RECEIVE .. struct.pack('>I8', item.token) .. item.id)
end
if taken > 0 then
  count(token + taken)
else
  local moments = { redis.call('ZRANGE', DELAYED, 0, 0, 'WITHSCORES')[2], redis.call('ZRANGE', LEASED, 0, 0, 'WITHSCORES')[2] }
  for _, moment in pairs(moments) do
    local wait = math.max(tonumber(moment) - NOW, 0)
    if answer[2] < 0 or wait < answer[2] then
      answer[2] = wait
    end
  end
end
tell(ARGV[1])
return answer
