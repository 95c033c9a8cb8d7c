-- Renews grants of one line.
-- keys, arguments 1 and 2: see begin.lua
-- arguments: from 3 on, id, token and TTL in milliseconds of each
-- result: {hints, for each 1 if it was renewed or 0 if it is lost}
local renewed = { '' }
permit()
for at = 3, #ARGV, 3 do
    local id, answer = ARGV[at], 0
    if held(id, ARGV[at + 1]) then
        -- One that was under way for long must not undo a later one with a longer TTL.
        local ending = math.max(ending(id), arm(tonumber(ARGV[at + 2])))
        ends[id] = ending
        stand(tonumber(ARGV[at + 2]))
        call('HSET', CLAIMS, 'e' .. id, ending)
        answer = 1
    end
    renewed[#renewed + 1] = answer
end
renewed[1] = finish()
return renewed
