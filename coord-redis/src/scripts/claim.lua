-- Joins the line or looks again, and re-arms the lease.
-- keys, arguments 1 and 2: see begin.lua
-- arguments: 3 id, 4 weight, 5 limit, 6 TTL in milliseconds, 7 priority, 8 '1' if it waits, 9 owner, 10 value
-- result: {hints, 'granted', token} or {hints, 'waiting', claims ahead, milliseconds until a lease ahead ends} or
--         {hints, 'refused'} or {hints, 'refused', token of the first in line, its owner}
local id, ttl, priority = ARGV[3], tonumber(ARGV[6]), tonumber(ARGV[7])

-- Whether a claim in the line fits beside those ahead of it, and who of them was looked at to know that.
local function fits(claim)
    if weight <= claim.limit then
        return true
    end
    local through, at, size, walked = claim.weight, 0, 2, {}
    while at < card do
        for _, other in ipairs(call('ZRANGE', LINE, at, at + size - 1)) do
            if other == id then
                return through <= claim.limit
            end
            walked[#walked + 1] = other
            through = through + read(other).weight
            if through > claim.limit then
                return false, walked
            end
        end
        at, size = at + size, 16
    end
    return through <= claim.limit
end

-- When the claim can next become eligible by expiry alone. If who stands directly ahead is in its way alone, it suffices to
-- look when that lease ends: nobody else looks then, so a crash wakes one and not all.
local function patience(claim, rank, walked)
    if rank == 0 then
        return ttl
    end
    local ahead = call('ZRANGE', LINE, rank - 1, rank - 1)[1]
    if read(ahead).weight + claim.weight > claim.limit or not walked then
        walked = { ahead }
    end
    local first = math.huge
    for _, other in ipairs(walked) do
        first = math.min(first, ending(other))
    end
    return math.max(first - now, 1)
end

-- Another client that holds the name does not tell when it leaves: the first in line looks now and then.
local LOOK = 50

local function waits(claim, walked, fields)
    local rank = call('ZRANK', LINE, id)
    local rest = patience(claim, rank, walked)
    if foreign and not walked then
        local left = call('PTTL', PLACE)
        rest = left > 0 and math.min(left, LOOK) or LOOK
    end
    return { finish(fields), 'waiting', rank, rest }
end

local function refused()
    local first = card > 0 and read(call('ZRANGE', LINE, 0, 0)[1])
    local hints = finish()
    if not first then
        return { hints, 'refused' }
    end
    return { hints, 'refused', first.token, string.sub(first.rest, 2, 1 + string.byte(first.rest)) }
end

local claim = read(id)
if claim then
    local granted, walked = claim.granted > 0, nil
    if not granted then
        granted, walked = fits(claim)
        granted = granted and not foreign
    end
    if not granted and ARGV[8] ~= '1' then
        take(claim)
        return refused()
    end
    if PLACE then
        permit()
    end
    local fields = { 'e' .. id, arm(ttl) }
    local granting = granted and claim.granted == 0
    if granting then
        claim.granted, waiting, changed = now, waiting - 1, true
    end
    if granting or claim.client ~= ME then
        claim.client = ME
        fields[3], fields[4] = id, pack(claim)
    end
    if granted then
        occupy(id, ttl)
        return { finish(fields), 'granted', claim.token }
    end
    return waits(claim, walked, fields)
end

claim = { id = id, weight = tonumber(ARGV[4]), limit = tonumber(ARGV[5]), priority = priority, joined = now, client = ME }
claim.rest = string.char(#ARGV[9]) .. ARGV[9] .. ARGV[10]
local before, after, overtaken, beside = nil, {}, 0, weight
if waiting > 0 and priority > least then
    before = everyone()
    for _, other in ipairs(before) do
        if other.granted == 0 and other.priority < priority then
            overtaken, beside = overtaken + 1, beside - other.weight
        else
            after[#after + 1] = other
        end
    end
end
local granted = beside + claim.weight <= claim.limit and not foreign
if not granted and ARGV[8] ~= '1' then
    return refused()
end
if not room(1 + overtaken) then
    finish()
    return redis.error_reply('EXHAUSTED the numbers for tokens are used up')
end
claim.granted, claim.token = granted and now or 0, number()
-- First a write that a full memory forbids: nothing is done then.
call('ZADD', LINE, claim.token, id)
created = card == 0
weight, card, greatest = weight + claim.weight, card + 1, math.max(greatest, claim.limit)
if not granted then
    least = waiting == 0 and priority or math.min(least, priority)
    waiting = waiting + 1
end
if overtaken > 0 then
    left = true
    after[#after + 1] = claim
    requeue(before, after, function(other) return other.priority < priority end)
end
local fields = { id, pack(claim), 'e' .. id, arm(ttl) }
if granted then
    occupy(id, ttl)
    return { finish(fields), 'granted', claim.token }
end
local _, walked = fits(claim)
return waits(claim, walked, fields)
