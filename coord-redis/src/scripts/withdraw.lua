-- Takes a claim out of the line.
-- keys, arguments 1 and 2: see begin.lua
-- arguments: 3 id
-- result: {hints}
local claim = read(ARGV[3])
if claim then
    take(claim)
    -- Its own client should know, if another one took it away.
    hint(claim.client, claim.id)
    if waiting > 0 then
        local behind = notify(claim.token)
        left = false
        -- Who waits directly behind looks when the lease ahead ends, and that is another one now.
        if not behind then
            local id = call('ZRANGEBYSCORE', LINE, claim.token, '+inf', 'LIMIT', 0, 1)[1]
            behind = id and read(id)
        end
        if behind and behind.granted == 0 then
            hint(behind.client, behind.id)
        end
    end
end
return { finish() }
