-- Everyone in the line.
-- keys, arguments 1 and 2: see begin.lua
-- result: {hints, revision, the server's time in milliseconds, line, claims}
local hints = finish()
return {
    hints,
    count > 0 and count or floor,
    now,
    call('ZRANGE', LINE, 0, -1),
    card > 0 and call('HGETALL', CLAIMS) or {},
}
