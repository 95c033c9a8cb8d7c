-- The first claim of an empty line that was used before, which is what most locks see. It does what claim.lua would do, without
-- what is needed for lines only: a server spends more time on that than on the rest.
if meta and card == 0 and not PLACE and not records[ARGV[3]] then
    local id, weight, limit, ttl = ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
    local token = math.max(count + 1, floor)
    if weight <= limit and token <= LAST and expires >= now + ttl + DAY then
        call('ZADD', LINE, token, id)
        local record = struct.pack(RECORD, token, weight, limit, tonumber(ARGV[7]), now, now, ME)
            .. string.char(#ARGV[9]) .. ARGV[9] .. ARGV[10]
        local ending = now + 1 + ttl
        call('HSET', CLAIMS, id, record, 'e' .. id, ending, 'm', struct.pack(META, token, weight, 1, 0, limit, 0, ending, expires))
        call('PEXPIREAT', LINE, expires)
        tell()
        return { '', 'granted', token }
    end
end
