-- Counts.
--   keys    as above
--   args    1 the channel of the queue
--   result  how many items are ready or behind another one of their group, delayed, in flight, dead
local dead = redis.call('ZCARD', DEAD)
local after = '(' .. decimal(NOW)
local delayed = redis.call('ZCOUNT', DELAYED, after, '+inf')
local leased = redis.call('ZCOUNT', LEASED, after, '+inf')
return { redis.call('HLEN', ITEMS) - dead - delayed - leased, delayed, leased, dead }
