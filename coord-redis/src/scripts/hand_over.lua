-- Takes a grant out of the line and puts a claim that waits next: those who waited ahead of it join again.
-- keys, arguments 1 and 2: see begin.lua
-- arguments: 3 id of the grant, 4 its token, 5 id of the claim
-- result: {hints, 'done' or 'lost' or 'not found'}
local from, to = held(ARGV[3], ARGV[4]), read(ARGV[5])
if not from then
    return { finish(), 'lost' }
end
if not to or to.granted > 0 then
    return { finish(), 'not found' }
end
local before, after, overtaken = everyone(), {}, 0
for _, claim in ipairs(before) do
    if claim.granted == 0 and claim.token < to.token then
        overtaken = overtaken + 1
    elseif claim.id ~= from.id then
        after[#after + 1] = claim
    end
end
if overtaken > 0 and not room(overtaken) then
    finish()
    return redis.error_reply('EXHAUSTED the numbers for tokens are used up')
end
take(from)
local place = to.token
requeue(before, after, function(claim) return claim.token < place end)
return { finish(), 'done' }
