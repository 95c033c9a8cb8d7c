-- The only claim of a line, by whom it belongs to. It does what withdraw.lua would do, as claim_alone.lua does.
if meta and card == 1 and waiting == 0 and not PLACE and records[ARGV[3]] and soonest > now
    and string.sub(records[ARGV[3]], CLIENT, CLIENT + 31) == ME and call('ZCARD', LINE) == 1 then
    local id, last = ARGV[3], math.min(math.max(count + 1, floor), LAST)
    call('ZREM', LINE, id)
    call('HDEL', CLAIMS, id, 'e' .. id)
    call('HSET', CLAIMS, 'm', struct.pack(META, last, 0, 0, 0, 0, 0, math.huge, expires))
    tell()
    return { id }
end
