-- Queues: what `coord_core::spi::jobs::Jobs` says, one function a step. As in the first file; the line of a queue is
-- `queue/namespace/name`, and its lock puts all steps on one queue in order.

-- The items of all queues. An item's place is its place in the order of commits.
--   ready_at  when its delay has passed; `ripe` is whether it was found to have
--   head      whether it is behind no other item of its family (its group)
--   token     of the delivery under way, with `receive` (its attempt), `owner` and `expires_at`
--   returned  the token of the delivery that was given back last
CREATE TABLE coord.items (
    queue      text    COLLATE "C" NOT NULL,
    place      bigint  GENERATED ALWAYS AS IDENTITY,
    id         bytea   NOT NULL,
    priority   integer NOT NULL,
    family     text    COLLATE "C",
    head       boolean NOT NULL,
    ripe       boolean NOT NULL,
    ready_at   bigint  NOT NULL,
    attempts   bigint  NOT NULL DEFAULT 0,
    token      bigint,
    receive    bytea,
    owner      text,
    expires_at bigint,
    returned   bigint,
    pushed_at  bigint  NOT NULL,
    payload    bytea   NOT NULL,
    PRIMARY KEY (queue, id)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);

-- What can be delivered, in the order of delivery: a receive reads its first entries, however many items there are.
CREATE INDEX items_ready ON coord.items (queue, priority DESC, place) WHERE token IS NULL AND head AND ripe;
CREATE INDEX items_delayed ON coord.items (queue, ready_at) WHERE NOT ripe;
CREATE INDEX items_leased ON coord.items (queue, expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX items_receive ON coord.items (queue, receive) WHERE receive IS NOT NULL;
CREATE INDEX items_tried ON coord.items (queue, attempts) WHERE attempts > 0 AND token IS NULL;
CREATE INDEX items_family ON coord.items (queue, family, place) WHERE family IS NOT NULL;

-- The items that were given up, in the order in which they were.
--   token  of the delivery by whose word the item was given up; null if its lease had ended. So a word that is sent again is told
--          from one that is late.
CREATE TABLE coord.dead_items (
    queue    text    COLLATE "C" NOT NULL,
    place    bigint  GENERATED ALWAYS AS IDENTITY,
    id       bytea   NOT NULL,
    attempts bigint  NOT NULL,
    priority integer NOT NULL,
    family   text    COLLATE "C",
    died_at  bigint  NOT NULL,
    payload  bytea   NOT NULL,
    token    bigint,
    PRIMARY KEY (queue, id)
);

CREATE INDEX dead_items_order ON coord.dead_items (queue, place);

-- The items that were acknowledged, with the token, or dropped, for a while: so that a push or an acknowledgement can be sent
-- again.
CREATE TABLE coord.gone_items (
    queue text   COLLATE "C" NOT NULL,
    id    bytea  NOT NULL,
    token bigint,
    until bigint NOT NULL,
    PRIMARY KEY (queue, id)
);

CREATE INDEX gone_items_until ON coord.gone_items (until);

-- When an item leaves, the next of its family is the head.
CREATE FUNCTION coord.succeed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE coord.items SET head = true
    WHERE queue = old.queue AND NOT head AND place = (
        SELECT min(place) FROM coord.items WHERE queue = old.queue AND family = old.family);
    RETURN NULL;
END $$;

CREATE TRIGGER items_succession AFTER DELETE ON coord.items
FOR EACH ROW WHEN (old.family IS NOT NULL) EXECUTE FUNCTION coord.succeed();

-- Ends the leases of a queue that have run out.
CREATE FUNCTION coord.expire(p_queue text, p_now bigint) RETURNS void LANGUAGE sql AS $$
    UPDATE coord.items SET token = NULL, receive = NULL, owner = NULL, expires_at = NULL
    WHERE queue = p_queue AND expires_at IS NOT NULL AND expires_at <= p_now
$$;

-- Forgets some items that are long gone, more than one step adds.
CREATE FUNCTION coord.forget_items(p_now bigint) RETURNS void LANGUAGE sql AS $$
    DELETE FROM coord.gone_items WHERE (queue, id) IN (
        SELECT queue, id FROM coord.gone_items WHERE until <= p_now ORDER BY until LIMIT 2000 FOR UPDATE SKIP LOCKED)
$$;

CREATE FUNCTION coord.insert_item(
    p_queue text, p_now bigint, p_id bytea, p_priority integer, p_family text, p_delay bigint, p_payload bytea
) RETURNS void LANGUAGE sql AS $$
    INSERT INTO coord.items (queue, id, priority, family, head, ripe, ready_at, pushed_at, payload)
    VALUES (p_queue, p_id, p_priority, p_family,
            p_family IS NULL
                OR NOT EXISTS (SELECT 1 FROM coord.items WHERE queue = p_queue AND family = p_family),
            p_delay = 0, p_now + CASE WHEN p_delay = 0 THEN 0 ELSE 1 + p_delay END, p_now, p_payload)
$$;

-- `coord_core::spi::jobs::Jobs::push`: how many were new, or null if there is room for fewer. `delays` in milliseconds.
CREATE FUNCTION coord.push(
    p_queue text, p_capacity bigint, p_ids bytea[], p_priorities integer[], p_families text[], p_delays bigint[],
    p_payloads bytea[]
) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    now   bigint := coord.enter(p_queue);
    fresh integer[];
    room  bigint;
BEGIN
    SELECT coalesce(array_agg(at ORDER BY at), '{}') INTO fresh FROM (
        SELECT min(at)::integer AS at FROM unnest(p_ids) WITH ORDINALITY AS asked (id, at)
        WHERE NOT EXISTS (SELECT 1 FROM coord.items AS item WHERE item.queue = p_queue AND item.id = asked.id)
          AND NOT EXISTS (SELECT 1 FROM coord.dead_items AS item WHERE item.queue = p_queue AND item.id = asked.id)
          AND NOT EXISTS (SELECT 1 FROM coord.gone_items AS item
                          WHERE item.queue = p_queue AND item.id = asked.id AND item.until > now)
        GROUP BY id) AS unknown;
    IF cardinality(fresh) = 0 THEN
        RETURN 0;
    END IF;
    IF p_capacity IS NOT NULL THEN
        SELECT p_capacity - count(*) INTO room
        FROM (SELECT 1 FROM coord.items WHERE queue = p_queue LIMIT p_capacity) AS there;
        IF room < cardinality(fresh) THEN
            RETURN NULL;
        END IF;
    END IF;
    PERFORM coord.durably();
    -- An id may be among those that are gone for long and not forgotten yet.
    DELETE FROM coord.gone_items WHERE queue = p_queue AND id = ANY (p_ids) AND until <= now;
    FOR i IN 1 .. cardinality(fresh) LOOP
        PERFORM coord.insert_item(p_queue, now, p_ids[fresh[i]], p_priorities[fresh[i]], p_families[fresh[i]],
                                  p_delays[fresh[i]], p_payloads[fresh[i]]);
    END LOOP;
    PERFORM coord.forget_items(now);
    PERFORM coord.tell(p_queue, false, NULL);
    RETURN cardinality(fresh);
END $$;

-- `coord_core::spi::jobs::Jobs::receive`: the deliveries, or a row of nulls but for `look_again`, in milliseconds.
CREATE FUNCTION coord.receive(
    p_queue text, p_receive bytea, p_limit integer, p_visibility bigint, p_attempts bigint, p_owner text
) RETURNS TABLE (id bytea, token bigint, attempts bigint, payload bytea, priority integer, family text, pushed_at bigint,
                 look_again bigint)
LANGUAGE plpgsql AS $$
DECLARE
    now    bigint := coord.enter(p_queue);
    chosen record;
BEGIN
    PERFORM coord.expire(p_queue, now);
    UPDATE coord.items AS i SET ripe = true WHERE i.queue = p_queue AND NOT i.ripe AND i.ready_at <= now;
    IF NOT EXISTS (SELECT 1 FROM coord.items AS i WHERE i.queue = p_queue AND i.receive = p_receive) THEN
        IF p_attempts IS NOT NULL THEN
            PERFORM coord.bury(p_queue, now, array(
                SELECT i.id FROM coord.items AS i
                WHERE i.queue = p_queue AND i.attempts > 0 AND i.attempts >= p_attempts AND i.token IS NULL
                ORDER BY i.place), NULL);
        END IF;
        FOR chosen IN
            SELECT i.id FROM coord.items AS i
            WHERE i.queue = p_queue AND i.token IS NULL AND i.head AND i.ripe
            ORDER BY i.priority DESC, i.place LIMIT p_limit
        LOOP
            PERFORM coord.durably();
            UPDATE coord.items AS i
            SET token = coord.next_token(), attempts = i.attempts + 1, receive = p_receive, owner = p_owner,
                expires_at = now + 1 + p_visibility
            WHERE i.queue = p_queue AND i.id = chosen.id;
        END LOOP;
    END IF;
    RETURN QUERY
    SELECT i.id, i.token, i.attempts, i.payload, i.priority, i.family, i.pushed_at, NULL::bigint
    FROM coord.items AS i WHERE i.queue = p_queue AND i.receive = p_receive ORDER BY i.token;
    IF NOT FOUND THEN
        SELECT least(
            (SELECT min(i.ready_at) FROM coord.items AS i WHERE i.queue = p_queue AND NOT i.ripe),
            (SELECT min(i.expires_at) FROM coord.items AS i WHERE i.queue = p_queue AND i.expires_at IS NOT NULL))
            - now + 1 INTO look_again;
        RETURN NEXT;
    END IF;
END $$;

-- Gives items up.
CREATE FUNCTION coord.bury(p_queue text, p_now bigint, p_ids bytea[], p_token bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF cardinality(p_ids) = 0 THEN
        RETURN;
    END IF;
    PERFORM coord.durably();
    INSERT INTO coord.dead_items (queue, id, attempts, priority, family, died_at, payload, token)
    SELECT p_queue, item.id, item.attempts, item.priority, item.family, p_now, item.payload, p_token
    FROM unnest(p_ids) WITH ORDINALITY AS said (id, at)
    JOIN coord.items AS item ON item.queue = p_queue AND item.id = said.id
    ORDER BY said.at;
    DELETE FROM coord.items WHERE queue = p_queue AND id = ANY (p_ids);
END $$;

-- `coord_core::spi::jobs::Jobs::settle`: for each word, in order, whether it counts.
--   words    0 ack, 1 nack, 2 return, 3 extend
--   times    of a nack its delay, of an extension its length, in milliseconds
--   attempts of a nack, after how many the item is dead, or null
CREATE FUNCTION coord.settle(
    p_queue text, p_ids bytea[], p_tokens bigint[], p_words integer[], p_times bigint[], p_attempts bigint[],
    p_memory bigint
) RETURNS boolean[] LANGUAGE plpgsql AS $$
DECLARE
    now     bigint := coord.enter(p_queue);
    answers boolean[] := '{}';
    counts  boolean;
    frees   boolean := false;
    item    record;
    acked   bigint;
BEGIN
    PERFORM coord.expire(p_queue, now);
    FOR i IN 1 .. cardinality(p_ids) LOOP
        SELECT * INTO item FROM coord.items AS it WHERE it.queue = p_queue AND it.id = p_ids[i];
        IF NOT FOUND THEN
            SELECT gone.token INTO acked FROM coord.gone_items AS gone
            WHERE gone.queue = p_queue AND gone.id = p_ids[i] AND gone.until > now;
            counts := (p_words[i] = 0 AND FOUND AND acked IS NOT DISTINCT FROM p_tokens[i])
                OR (p_words[i] = 1
                    AND EXISTS (SELECT 1 FROM coord.dead_items AS d
                                WHERE d.queue = p_queue AND d.id = p_ids[i] AND d.token = p_tokens[i]));
        ELSIF item.token IS DISTINCT FROM p_tokens[i] THEN
            counts := p_words[i] IN (1, 2) AND item.returned IS NOT DISTINCT FROM p_tokens[i];
        ELSE
            counts := true;
            IF p_words[i] = 3 THEN
                UPDATE coord.items AS it SET expires_at = greatest(it.expires_at, now + 1 + p_times[i])
                WHERE it.queue = p_queue AND it.id = p_ids[i];
            ELSE
                frees := true;
                IF p_words[i] = 0 THEN
                    INSERT INTO coord.gone_items AS gone (queue, id, token, until)
                    VALUES (p_queue, p_ids[i], p_tokens[i], now + 1 + p_memory)
                    ON CONFLICT (queue, id) DO UPDATE SET token = excluded.token, until = excluded.until;
                    DELETE FROM coord.items AS it WHERE it.queue = p_queue AND it.id = p_ids[i];
                ELSIF p_words[i] = 1 AND item.attempts >= p_attempts[i] THEN
                    PERFORM coord.bury(p_queue, now, ARRAY[p_ids[i]], p_tokens[i]);
                ELSE
                    UPDATE coord.items AS it
                    SET token = NULL, receive = NULL, owner = NULL, expires_at = NULL, returned = p_tokens[i],
                        attempts = it.attempts - CASE WHEN p_words[i] = 2 THEN 1 ELSE 0 END,
                        ready_at = CASE WHEN p_words[i] = 2 THEN it.ready_at
                                        WHEN p_times[i] = 0 THEN now ELSE now + 1 + p_times[i] END,
                        ripe = p_words[i] = 2 OR p_times[i] = 0
                    WHERE it.queue = p_queue AND it.id = p_ids[i];
                END IF;
            END IF;
        END IF;
        answers := answers || counts;
    END LOOP;
    PERFORM coord.durably();
    IF frees THEN
        PERFORM coord.forget_items(now);
        PERFORM coord.tell(p_queue, false, NULL);
    END IF;
    RETURN answers;
END $$;

-- `coord_core::spi::jobs::Jobs::requeue`: how many there were.
CREATE FUNCTION coord.requeue(p_queue text, p_ids bytea[]) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    now   bigint := coord.enter(p_queue);
    dead  record;
    count bigint := 0;
BEGIN
    PERFORM coord.durably();
    FOR dead IN SELECT * FROM coord.dead_items WHERE queue = p_queue AND id = ANY (p_ids) ORDER BY place LOOP
        PERFORM coord.insert_item(p_queue, now, dead.id, dead.priority, dead.family, 0, dead.payload);
        count := count + 1;
    END LOOP;
    IF count > 0 THEN
        DELETE FROM coord.dead_items WHERE queue = p_queue AND id = ANY (p_ids);
        PERFORM coord.tell(p_queue, false, NULL);
    END IF;
    RETURN count;
END $$;

-- `coord_core::spi::jobs::Jobs::drop_dead`: how many there were.
CREATE FUNCTION coord.drop_dead(p_queue text, p_ids bytea[], p_memory bigint) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    now   bigint := coord.enter(p_queue);
    count bigint;
BEGIN
    PERFORM coord.durably();
    INSERT INTO coord.gone_items (queue, id, token, until)
    SELECT queue, id, NULL, now + 1 + p_memory FROM coord.dead_items WHERE queue = p_queue AND id = ANY (p_ids)
    ON CONFLICT (queue, id) DO UPDATE SET token = NULL, until = excluded.until;
    GET DIAGNOSTICS count = ROW_COUNT;
    DELETE FROM coord.dead_items WHERE queue = p_queue AND id = ANY (p_ids);
    PERFORM coord.forget_items(now);
    RETURN count;
END $$;

-- `coord_core::spi::jobs::Jobs::purge`: how many there were.
CREATE FUNCTION coord.purge_queue(p_queue text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    now   bigint := coord.enter(p_queue);
    items bigint;
    dead  bigint;
BEGIN
    PERFORM coord.durably();
    PERFORM coord.expire(p_queue, now);
    DELETE FROM coord.items WHERE queue = p_queue AND token IS NULL;
    GET DIAGNOSTICS items = ROW_COUNT;
    DELETE FROM coord.dead_items WHERE queue = p_queue;
    GET DIAGNOSTICS dead = ROW_COUNT;
    IF items + dead > 0 THEN
        PERFORM coord.tell(p_queue, false, NULL);
    END IF;
    RETURN items + dead;
END $$;

-- `coord_core::spi::jobs::Jobs::stats`.
CREATE FUNCTION coord.stats(p_queue text, OUT ready bigint, OUT delayed bigint, OUT in_flight bigint, OUT dead bigint)
LANGUAGE sql AS $$
    WITH clock AS (SELECT coord.milliseconds() AS now),
         items AS (SELECT count(*) AS there,
                          count(*) FILTER (WHERE NOT ripe AND ready_at > now) AS delayed,
                          count(*) FILTER (WHERE expires_at > now) AS in_flight
                   FROM coord.items, clock WHERE queue = p_queue)
    SELECT there - delayed - in_flight, delayed, in_flight,
           (SELECT count(*) FROM coord.dead_items WHERE queue = p_queue)
    FROM items
$$;
