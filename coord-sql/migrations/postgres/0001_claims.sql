-- Locks, elections, members and barriers: what `coord_core::spi::Claims` says, one function a step, so that each step is one
-- statement of the client, one round trip and one commit. The functions are called by name and position: their signatures
-- are stable within a major version of the library, the tables behind them are not.
--
-- Every step on a line first takes the line's advisory lock, and what it reads after that is new: a function's statements see
-- what was committed before each of them. Times are milliseconds since 1970 by this server's clock, read after the lock was given,
-- so a wait for others shortens no lease. Wake-ups are notifications, which the server sends when the step is committed.

-- The tokens of all lines, and of all deliveries. Numbers above 2^53 are not exact everywhere.
CREATE SEQUENCE coord.tokens MAXVALUE 9007199254740991 NO CYCLE;

-- The database's present life. A promoted replica, a restored backup and a copy begin another one, and may have lost the last
-- tokens and revisions: then both are raised to the microseconds since 1970.
--   system, timeline  of the server's data
--   base              added to the count of transactions to make a revision
CREATE TABLE coord.life (
    one      boolean PRIMARY KEY DEFAULT true CHECK (one),
    system   bigint  NOT NULL,
    timeline text    NOT NULL,
    base     bigint  NOT NULL
);

CREATE FUNCTION coord.microseconds() RETURNS bigint LANGUAGE sql VOLATILE AS $$
    SELECT floor(extract(epoch FROM clock_timestamp()) * 1000000)::bigint
$$;

CREATE FUNCTION coord.milliseconds() RETURNS bigint LANGUAGE sql VOLATILE AS $$
    SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint
$$;

CREATE FUNCTION coord.timeline() RETURNS text LANGUAGE sql VOLATILE AS $$
    SELECT left(pg_walfile_name(pg_current_wal_insert_lsn()), 8)
$$;

INSERT INTO coord.life (system, timeline, base)
SELECT system_identifier, coord.timeline(), coord.microseconds() FROM pg_control_system();

SELECT setval('coord.tokens', coord.microseconds());

-- Begins a life, if the last one is over.
CREATE FUNCTION coord.revive() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    known  coord.life;
    floor  bigint;
    here   bigint := (SELECT system_identifier FROM pg_control_system());
BEGIN
    SELECT * INTO STRICT known FROM coord.life FOR UPDATE;
    IF (known.system, known.timeline) = (here, coord.timeline()) THEN
        RETURN;
    END IF;
    floor := coord.microseconds();
    -- Nobody can have taken a number as great as this one meanwhile, if it is greater at all. A clock that reads a date beyond
    -- 2112 is wrong, and would use up the tokens.
    IF nextval('coord.tokens') < floor AND floor < 4503599627370496 THEN
        PERFORM setval('coord.tokens', floor);
    END IF;
    UPDATE coord.life SET system = here, timeline = coord.timeline(), base = greatest(base, floor);
    -- Who watched values in the life before may have seen what is not there any more: it is told of a gap.
    UPDATE coord.namespaces SET revision = greatest(revision, floor), forgotten = greatest(forgotten, floor);
END $$;

CREATE FUNCTION coord.next_token() RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT 1 FROM coord.life, pg_control_system() AS here
                   WHERE life.system = here.system_identifier AND life.timeline = coord.timeline()) THEN
        PERFORM coord.revive();
    END IF;
    RETURN nextval('coord.tokens');
END $$;

-- Grows with every transaction that ends: what two readers see is the same if it is the same for both.
CREATE FUNCTION coord.revision() RETURNS bigint LANGUAGE sql STABLE AS $$
    SELECT base + pg_snapshot_xmax(seen)::text::bigint - (SELECT count(*) FROM pg_snapshot_xip(seen))
    FROM coord.life, pg_current_snapshot() AS seen
$$;

-- The claims of all lines. A claim's token is its place in its line. When the last claim of a line leaves, nothing of the line
-- remains.
--   line        kind/namespace/name
--   client      whom to wake
--   granted_at, joined_at  for people; the first is null while the claim waits
CREATE TABLE coord.claims (
    line       text    COLLATE "C" NOT NULL,
    token      bigint  NOT NULL,
    id         bytea   NOT NULL UNIQUE,
    client     bytea   NOT NULL,
    weight     bigint  NOT NULL,
    capacity   bigint  NOT NULL,
    priority   integer NOT NULL,
    ttl_ms     bigint  NOT NULL,
    expires_at bigint  NOT NULL,
    granted_at bigint,
    joined_at  bigint  NOT NULL,
    owner      text    NOT NULL,
    value      bytea   NOT NULL,
    PRIMARY KEY (line, token)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);

-- The greatest capacity among those that wait in a line.
CREATE INDEX claims_waiting ON coord.claims (line, capacity) WHERE granted_at IS NULL;
CREATE INDEX claims_expiry ON coord.claims (expires_at);

-- The clients that want to hear of every change of a line, until when.
CREATE TABLE coord.watches (
    line   text   COLLATE "C" NOT NULL,
    client bytea  NOT NULL,
    until  bigint NOT NULL,
    PRIMARY KEY (line, client)
);

CREATE INDEX watches_client ON coord.watches (client);
CREATE INDEX watches_until ON coord.watches (until);

-- Waits for the line and gives the time.
CREATE FUNCTION coord.enter(p_line text) RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended(p_line, 1129270596));
    RETURN coord.milliseconds();
END $$;

-- What this transaction changed is on the disk, or where the server's settings say so on its replicas too, before it is answered.
CREATE FUNCTION coord.durably() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF current_setting('synchronous_commit') IN ('off', 'local') THEN
        PERFORM set_config('synchronous_commit', 'on', true);
    END IF;
END $$;

CREATE FUNCTION coord.wake(p_client bytea, p_hint text) RETURNS void LANGUAGE sql VOLATILE AS $$
    SELECT pg_notify('coord_' || encode(p_client, 'hex'), p_hint)
$$;

-- Wakes the watchers of a line, and if claims left it also those that became eligible. The weights add up along the line, so
-- behind the point where their sum exceeds the greatest capacity of all that wait nobody is eligible, and the walk ends:
-- behind the first claim of a lock, however many wait.
CREATE FUNCTION coord.tell(p_line text, p_left boolean, p_but bytea) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    through  bigint := 0;
    greatest bigint;
    claim    record;
    place    bigint := -1;
BEGIN
    IF p_left THEN
        SELECT max(capacity) INTO greatest FROM coord.claims WHERE line = p_line AND granted_at IS NULL;
        WHILE through <= greatest LOOP
            SELECT token, id, client, weight, capacity, granted_at INTO claim FROM coord.claims
            WHERE line = p_line AND token > place ORDER BY token LIMIT 1;
            EXIT WHEN NOT FOUND;
            place := claim.token;
            through := through + claim.weight;
            IF claim.granted_at IS NULL AND through <= claim.capacity AND claim.id IS DISTINCT FROM p_but THEN
                PERFORM coord.wake(claim.client, 'c' || encode(claim.id, 'hex'));
            END IF;
        END LOOP;
    END IF;
    PERFORM coord.wake(client, 'l' || p_line) FROM coord.watches WHERE line = p_line;
END $$;

-- Removes the expired claims of a line, and a few of others that nobody is at. Whether there were any of this line.
CREATE FUNCTION coord.purge(p_line text, p_now bigint) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    gone  record;
    any_gone boolean := false;
BEGIN
    FOR gone IN
        DELETE FROM coord.claims WHERE (line, token) IN (
            SELECT line, token FROM coord.claims WHERE line = p_line AND expires_at <= p_now ORDER BY token FOR UPDATE)
        RETURNING id, client
    LOOP
        any_gone := true;
        PERFORM coord.wake(gone.client, 'c' || encode(gone.id, 'hex'));
    END LOOP;
    FOR gone IN
        SELECT DISTINCT line FROM (
            SELECT line FROM coord.claims WHERE expires_at <= p_now AND line <> p_line ORDER BY expires_at LIMIT 4) AS late
    LOOP
        IF pg_try_advisory_xact_lock(hashtextextended(gone.line, 1129270596)) THEN
            PERFORM coord.wake(claim.client, 'c' || encode(claim.id, 'hex'))
            FROM coord.claims AS claim WHERE line = gone.line AND expires_at <= p_now;
            DELETE FROM coord.claims WHERE line = gone.line AND expires_at <= p_now;
            PERFORM coord.tell(gone.line, true, NULL);
        END IF;
    END LOOP;
    RETURN any_gone;
END $$;

-- `coord_core::spi::Claims::claim`.
--   standing     0 refused, 1 waiting, 2 granted
--   look_again   milliseconds
CREATE FUNCTION coord.claim(
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
        changed := true;
        PERFORM coord.durably();
    END IF;
    IF changed THEN
        PERFORM coord.tell(p_line, left_it, p_id);
    END IF;
    -- Nobody is ahead of it: it does not fit at all, and no expiry will change that.
    look_again := CASE WHEN expiry IS NULL THEN p_ttl ELSE greatest(expiry - now, 1) END;
END $$;

-- `coord_core::spi::Claims::renew`: the ids of those that were renewed. The rows are locked in one order by everybody.
-- One that was under way for long must not undo a later one with a longer TTL.
CREATE FUNCTION coord.renew(p_ids bytea[], p_tokens bigint[], p_ttls bigint[]) RETURNS SETOF bytea
LANGUAGE plpgsql AS $$
DECLARE
    now bigint;
BEGIN
    PERFORM 1 FROM coord.claims AS c JOIN unnest(p_ids, p_tokens) AS asked (id, token) USING (id)
    WHERE c.token = asked.token ORDER BY c.line, c.token FOR UPDATE OF c;
    now := coord.milliseconds();
    PERFORM coord.durably();
    RETURN QUERY
    UPDATE coord.claims AS c
    SET expires_at = greatest(c.expires_at, now + 1 + asked.ttl),
        ttl_ms = CASE WHEN now + 1 + asked.ttl < c.expires_at THEN c.ttl_ms ELSE asked.ttl END
    FROM unnest(p_ids, p_tokens, p_ttls) AS asked (id, token, ttl)
    WHERE c.id = asked.id AND c.token = asked.token AND c.granted_at IS NOT NULL AND c.expires_at > now
    RETURNING c.id;
END $$;

-- `coord_core::spi::Claims::set_value`: whether it is held.
CREATE FUNCTION coord.set_value(p_line text, p_id bytea, p_token bigint, p_value bytea) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    now     bigint := coord.enter(p_line);
    left_it boolean := coord.purge(p_line, now);
    held    boolean;
BEGIN
    UPDATE coord.claims SET value = p_value
    WHERE id = p_id AND line = p_line AND token = p_token AND granted_at IS NOT NULL;
    held := FOUND;
    IF held OR left_it THEN
        PERFORM coord.durably();
        PERFORM coord.tell(p_line, left_it, NULL);
    END IF;
    RETURN held;
END $$;

-- `coord_core::spi::Claims::withdraw`. A server that fails may undo it: then the claim ends with its lease.
CREATE FUNCTION coord.withdraw(p_line text, p_id bytea) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    now     bigint := coord.enter(p_line);
    left_it boolean := coord.purge(p_line, now);
    whose   bytea;
BEGIN
    DELETE FROM coord.claims WHERE id = p_id AND line = p_line RETURNING client INTO whose;
    IF FOUND THEN
        -- Not waited for: whoever is granted next waits for both.
        PERFORM set_config('synchronous_commit', 'off', true);
        left_it := true;
        PERFORM coord.wake(whose, 'c' || encode(p_id, 'hex'));
    END IF;
    IF left_it THEN
        PERFORM coord.tell(p_line, true, NULL);
    END IF;
END $$;

-- `coord_core::spi::Claims::hand_over`: 0 done, 1 lost, 2 not found.
CREATE FUNCTION coord.hand_over(p_line text, p_from bytea, p_token bigint, p_to bytea) RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    now       bigint := coord.enter(p_line);
    left_it   boolean := coord.purge(p_line, now);
    whose     bytea;
    candidate bigint;
    behind    record;
    outcome   integer := 0;
BEGIN
    SELECT client INTO whose FROM coord.claims
    WHERE id = p_from AND line = p_line AND token = p_token AND granted_at IS NOT NULL;
    IF NOT FOUND THEN
        outcome := 1;
    ELSE
        SELECT token INTO candidate FROM coord.claims WHERE id = p_to AND line = p_line AND granted_at IS NULL;
        IF NOT FOUND THEN
            outcome := 2;
        ELSE
            PERFORM coord.durably();
            DELETE FROM coord.claims WHERE id = p_from;
            left_it := true;
            PERFORM coord.wake(whose, 'c' || encode(p_from, 'hex'));
            FOR behind IN
                SELECT token FROM coord.claims
                WHERE line = p_line AND granted_at IS NULL AND token < candidate ORDER BY token
            LOOP
                UPDATE coord.claims SET token = coord.next_token() WHERE line = p_line AND token = behind.token;
            END LOOP;
        END IF;
    END IF;
    IF left_it THEN
        PERFORM coord.tell(p_line, true, NULL);
    END IF;
    RETURN outcome;
END $$;

-- `coord_core::spi::Claims::adopt`: whether it succeeded. Sent again with the same new id it finds that one.
CREATE FUNCTION coord.adopt(p_line text, p_from bytea, p_token bigint, p_to bytea, p_client bytea, p_ttl bigint)
RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    now     bigint := coord.enter(p_line);
    left_it boolean := coord.purge(p_line, now);
    before  record;
    held    boolean;
BEGIN
    SELECT id, client INTO before FROM coord.claims
    WHERE line = p_line AND token = p_token AND id IN (p_from, p_to) AND granted_at IS NOT NULL;
    held := FOUND;
    IF held THEN
        PERFORM coord.durably();
        UPDATE coord.claims
        SET id = p_to, client = p_client, expires_at = greatest(expires_at, now + 1 + p_ttl),
            ttl_ms = CASE WHEN now + 1 + p_ttl < expires_at THEN ttl_ms ELSE p_ttl END
        WHERE line = p_line AND token = p_token;
        IF before.id <> p_to THEN
            PERFORM coord.wake(before.client, 'c' || encode(before.id, 'hex'));
        END IF;
    END IF;
    IF held OR left_it THEN
        PERFORM coord.tell(p_line, left_it, NULL);
    END IF;
    RETURN held;
END $$;

-- Removes the expired claims of a line.
CREATE FUNCTION coord.sweep(p_line text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    now bigint := coord.enter(p_line);
BEGIN
    IF coord.purge(p_line, now) THEN
        PERFORM coord.tell(p_line, true, NULL);
    END IF;
END $$;

-- Keeps watches for `p_ttl` milliseconds, ends others, and removes a few that nobody has kept.
CREATE FUNCTION coord.watch(p_client bytea, p_lines text[], p_ended text[], p_ttl bigint) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    now bigint := coord.milliseconds();
BEGIN
    INSERT INTO coord.watches AS w (line, client, until) SELECT line, p_client, now + p_ttl FROM unnest(p_lines) AS line
    ON CONFLICT (line, client) DO UPDATE SET until = excluded.until;
    DELETE FROM coord.watches WHERE client = p_client AND line = ANY (p_ended);
    DELETE FROM coord.watches WHERE (line, client) IN (
        SELECT line, client FROM coord.watches WHERE until <= now ORDER BY until LIMIT 100 FOR UPDATE SKIP LOCKED);
END $$;
