-- Who stood behind one that is overtaken, and is not overtaken itself, may be eligible: the claim tells it.
CREATE OR REPLACE FUNCTION coord.claim(
    p_line text, p_id bytea, p_client bytea, p_weight bigint, p_capacity bigint, p_priority integer, p_ttl bigint,
    p_wait boolean, p_owner text, p_value bytea,
    OUT standing integer, OUT token bigint, OUT ahead bigint, OUT look_again bigint,
    OUT first_token bigint, OUT first_owner text
) LANGUAGE plpgsql AS $$
DECLARE
    now     bigint := coord.enter(p_line);
    left_it boolean := coord.purge(p_line, now);
    changed boolean := left_it;
    own     record;
    stands  boolean;
    granted boolean;
    weight  bigint;
    expiry  bigint;
    behind  record;
BEGIN
    SELECT c.token, c.granted_at INTO own FROM coord.claims AS c WHERE c.id = p_id AND c.line = p_line;
    stands := FOUND;
    IF stands THEN
        SELECT count(*), coalesce(sum(c.weight), 0), min(c.expires_at) INTO ahead, weight, expiry
        FROM coord.claims AS c WHERE c.line = p_line AND c.token < own.token;
    ELSE
        SELECT count(*), coalesce(sum(c.weight), 0), min(c.expires_at) INTO ahead, weight, expiry
        FROM coord.claims AS c WHERE c.line = p_line AND (c.granted_at IS NOT NULL OR c.priority >= p_priority);
    END IF;
    granted := weight + p_weight <= p_capacity;
    IF stands AND own.granted_at IS NOT NULL THEN
        granted := true;
    END IF;
    standing := CASE WHEN granted THEN 2 WHEN p_wait THEN 1 ELSE 0 END;

    IF standing = 0 THEN
        SELECT c.token, c.owner INTO first_token, first_owner
        FROM coord.claims AS c WHERE c.line = p_line ORDER BY c.token LIMIT 1;
        IF stands THEN
            DELETE FROM coord.claims AS c WHERE c.id = p_id;
            left_it := true;
            changed := true;
        END IF;
    ELSIF stands THEN
        token := own.token;
        UPDATE coord.claims AS c
        SET client = p_client, ttl_ms = p_ttl, expires_at = now + 1 + p_ttl,
            granted_at = CASE WHEN granted THEN coalesce(c.granted_at, now) END
        WHERE c.id = p_id;
        changed := changed OR (granted AND own.granted_at IS NULL);
        PERFORM coord.durably();
    ELSE
        token := coord.next_token();
        INSERT INTO coord.claims (line, token, id, client, weight, capacity, priority, ttl_ms, expires_at, granted_at,
                                  joined_at, owner, value)
        VALUES (p_line, token, p_id, p_client, p_weight, p_capacity, p_priority, p_ttl, now + 1 + p_ttl,
                CASE WHEN granted THEN now END, now, p_owner, p_value);
        -- The overtaken join again behind it, in their order.
        FOR behind IN
            SELECT c.token FROM coord.claims AS c
            WHERE c.line = p_line AND c.granted_at IS NULL AND c.priority < p_priority AND c.id <> p_id ORDER BY c.token
        LOOP
            UPDATE coord.claims AS c SET token = coord.next_token() WHERE c.line = p_line AND c.token = behind.token;
        END LOOP;
        -- Who stood behind one of them and is not overtaken may be eligible now.
        left_it := left_it OR FOUND;
        changed := true;
        PERFORM coord.durably();
    END IF;
    IF changed THEN
        PERFORM coord.tell(p_line, left_it, p_id);
    END IF;
    -- Nobody is ahead of it: it does not fit at all, and no expiry will change that.
    look_again := CASE WHEN expiry IS NULL THEN p_ttl ELSE greatest(expiry - now, 1) END;
END $$;
