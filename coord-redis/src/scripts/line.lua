-- What every script about a line of claims is made of, after begin.lua. It removes the claims whose leases have ended.
local changed, left, counted, noted, created, keep = false, false, false, false, false, nil
local hinted, hints = {}, {}
-- Our value at the name, if it is there; whether another client's is there.
local ours, foreign = false, false

-- The next number: greater than all before, also if the counter was lost, as long as the clock does not step back.
local function number()
    count, counted, changed = math.min(math.max(count + 1, floor), LAST), true, true
    return count
end

local function room(tokens)
    -- In this order: beyond the last number, adding one changes nothing.
    return LAST - math.max(count + 1, floor) >= tokens - 1
end

local function hint(client, id)
    if not hinted[id] then
        hinted[id] = true
        hints[client] = (hints[client] or '') .. id
    end
end

local function read(id)
    local record = records[id]
    if record == nil then
        record = call('HGET', CLAIMS, id)
    end
    if not record then
        return nil
    end
    local claim = { id = id, rest = string.sub(record, 69) }
    claim.token, claim.weight, claim.limit, claim.priority, claim.granted, claim.joined, claim.client =
        struct.unpack(RECORD, record)
    return claim
end

local function pack(claim)
    return struct.pack(RECORD, claim.token, claim.weight, claim.limit, claim.priority, claim.granted, claim.joined, claim.client)
        .. claim.rest
end

local function write(claim)
    local record = pack(claim)
    records[claim.id] = record
    call('HSET', CLAIMS, claim.id, record)
end

-- When the lease of a claim that is in the line ends.
local function ending(id)
    return tonumber(ends[id] or call('HGET', CLAIMS, 'e' .. id))
end

-- When a lease that is armed now ends: the whole millisecond after, so that it is never short.
local function arm(ttl)
    local ending = now + 1 + ttl
    keep = math.max(keep or 0, ttl)
    if ending < soonest then
        soonest, noted = ending, true
    end
    return ending
end

-- A granted claim of this id and token.
local function held(id, token)
    local claim = read(id)
    if claim and claim.granted > 0 and claim.token == tonumber(token) then
        return claim
    end
end

local function take(claim)
    call('ZREM', LINE, claim.id)
    call('HDEL', CLAIMS, claim.id, 'e' .. claim.id)
    records[claim.id], ends[claim.id] = false, nil
    weight, card, changed, left = weight - claim.weight, card - 1, true, true
    if claim.granted == 0 then
        waiting = waiting - 1
    end
end

-- A write that does nothing, and that a full memory does not forbid. After it nothing else in the script is forbidden either,
-- so that leases can be prolonged while the memory is full.
local function permit()
    call('HDEL', CLAIMS, '-')
end

-- Everyone, in order.
local function everyone()
    local order = call('ZRANGE', LINE, 0, -1)
    for at, id in ipairs(order) do
        order[at] = read(id)
    end
    return order
end

-- Claims that wait and are chosen join again behind all others, in the order in which they stood. Who waits behind another
-- one than before is told, because it looks at the lease of who stands directly ahead.
local function requeue(before, after, chosen)
    local behind, follows = {}, {}
    for at, claim in ipairs(before) do
        follows[claim.id] = at > 1 and before[at - 1].id
        if claim.granted == 0 and chosen(claim) then
            behind[#behind + 1] = claim
        end
    end
    for _, claim in ipairs(behind) do
        claim.token = number()
        write(claim)
        call('ZADD', LINE, claim.token, claim.id)
        after[#after + 1] = claim
    end
    for at, claim in ipairs(after) do
        local ahead = at > 1 and after[at - 1].id
        if claim.granted == 0 and follows[claim.id] ~= nil and follows[claim.id] ~= ahead then
            hint(claim.client, claim.id)
        end
    end
end

-- Hints those who are eligible and have not looked. The walk ends where nobody further behind can be. Answers the claim that
-- it met first behind a token.
local function notify(token)
    local through, seen, at, size, behind = 0, 0, 0, 2, nil
    while at < card do
        for _, id in ipairs(call('ZRANGE', LINE, at, at + size - 1)) do
            local claim = read(id)
            if token and not behind and claim.token > token then
                behind = claim
            end
            through = through + claim.weight
            if claim.granted == 0 then
                if through <= claim.limit then
                    hint(claim.client, id)
                end
                seen = seen + 1
                if seen == waiting then
                    return behind
                end
            end
            if through > greatest then
                return behind
            end
        end
        at, size = at + size, 64
    end
    return behind
end

-- Lets the name stand for as long as a lease.
local function stand(ttl)
    -- Not before the lease ends, however the two round.
    if PLACE and call('PTTL', PLACE) < ttl + 2 then
        call('PEXPIRE', PLACE, ttl + 2)
    end
end

-- Puts our value at the name: a claim is granted.
local function occupy(id, ttl)
    if PLACE and not ours then
        ours = string.gsub(id, '.', function(byte) return string.format('%02x', string.byte(byte)) end)
        call('HSET', CLAIMS, 'f', ours)
        call('SET', PLACE, ours, 'PX', ttl + 2)
    else
        stand(ttl)
    end
end

-- Keeps what was changed and tells those whom it concerns. Answers the hints for the client that asks. `fields` are further
-- fields of the hash to set.
local function finish(fields)
    fields = fields or {}
    for at = 1, #fields, 2 do
        records[fields[at]] = fields[at + 1]
    end
    if ours and card == waiting then
        call('DEL', PLACE)
        call('HDEL', CLAIMS, 'f')
        ours = false
    end
    if left and waiting > 0 then
        notify()
    end
    if changed and not counted then
        number()
    end
    if waiting == 0 then
        least = 0
    end
    if card == 0 then
        weight, greatest, soonest = 0, 0, math.huge
    end
    local fresh = keep and expires < now + keep + DAY
    if fresh then
        expires, noted = now + keep + 2 * DAY, true
    end
    if changed or noted then
        fields[#fields + 1] = 'm'
        fields[#fields + 1] = struct.pack(META, count, weight, card, waiting, greatest, least, soonest, expires)
    end
    local answer = fields[1] and redis.pcall('HSET', CLAIMS, unpack(fields))
    if type(answer) == 'table' then
        -- A full memory, which is no reason to end a lease; what may not be done then was tried before.
        permit()
        call('HSET', CLAIMS, unpack(fields))
    end
    if fresh then
        call('PEXPIREAT', CLAIMS, expires)
    end
    if fresh or created then
        call('PEXPIREAT', LINE, expires)
    end
    if changed then
        tell()
    end
    -- Hints may be lost, so what goes wrong with them does not matter.
    for client, ids in pairs(hints) do
        if client ~= ME then
            redis.pcall('PUBLISH', 'coord:client:' .. client, ids)
        end
    end
    return hints[ME] or ''
end

if (card > 0 or not meta) and call('ZCARD', LINE) ~= card then
    -- The server removed a part because its memory was full, or somebody did. The rest means nothing.
    call('DEL', LINE, CLAIMS)
    weight, card, waiting, expires, changed, records, ends = 0, 0, 0, 0, true, {}, {}
end
if card > 0 and soonest <= now then
    permit()
    soonest, noted = math.huge, true
    for _, id in ipairs(call('ZRANGE', LINE, 0, -1)) do
        local ending = ending(id)
        if ending <= now then
            local claim = read(id)
            take(claim)
            hint(claim.client, id)
        else
            soonest = math.min(soonest, ending)
        end
    end
end
if PLACE then
    local found = redis.pcall('GET', PLACE)
    ours = call('HGET', CLAIMS, 'f')
    if found and found ~= ours then
        ours, foreign = false, true
    elseif not found then
        ours = false
    end
    if not ours and card > waiting then
        -- Somebody took the name away: our grants are worth nothing.
        permit()
        for _, claim in ipairs(everyone()) do
            if claim.granted > 0 then
                take(claim)
                hint(claim.client, claim.id)
            end
        end
    end
end
