-- Replaces the value of a grant.
-- keys, arguments 1 and 2: see begin.lua
-- arguments: 3 id, 4 token, 5 value
-- result: {hints, 1 if it is held or 0}
local claim = held(ARGV[3], ARGV[4])
if claim then
    claim.rest = string.sub(claim.rest, 1, 1 + string.byte(claim.rest)) .. ARGV[5]
    changed = true
    -- A full memory forbids it.
    write(claim)
end
return { finish(), claim and 1 or 0 }
