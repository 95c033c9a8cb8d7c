-- Gives a grant a new id and client, and renews it.
-- keys, arguments 1 and 2: see begin.lua
-- arguments: 3 id, 4 token, 5 the new id, 6 TTL in milliseconds
-- result: {hints, 1 if it was done, now or before, or 0}
local token, to, ttl = ARGV[4], ARGV[5], tonumber(ARGV[6])
local claim = held(to, token) or held(ARGV[3], token)
if not claim then
    return { finish(), 0 }
end
permit()
stand(ttl)
local known = claim.id
local ending = math.max(ending(known), arm(ttl))
if known ~= to then
    hint(claim.client, known)
    call('ZREM', LINE, known)
    call('HDEL', CLAIMS, known, 'e' .. known)
    call('ZADD', LINE, token, to)
    created = card == 1
end
claim.id, claim.client, changed = to, ME, true
return { finish({ to, pack(claim), 'e' .. to, ending }), 1 }
