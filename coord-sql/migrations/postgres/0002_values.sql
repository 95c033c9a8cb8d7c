-- Configuration and fenced storage: what `coord_core::spi::values::Values` says, one function a step. As in the first file.

-- The namespaces that values were ever written in. Its row is locked by whoever writes, so revisions are in the order of commits.
--   revision   of the last transaction: the greater of the one before plus one and the microseconds since 1970; before the
--              first, and where there is no row, the base of the database's life
--   forgotten  the version of the last change that the log has forgotten
--   logged     the bytes of the log
CREATE TABLE coord.namespaces (
    namespace text   COLLATE "C" PRIMARY KEY,
    revision  bigint NOT NULL,
    forgotten bigint NOT NULL,
    logged    bigint NOT NULL DEFAULT 0
);

-- The values. A key that was deleted stays only if it has a mark.
--   version  the revision of the last change
--   mark     the high-water mark of tokens; it never falls
--   at       milliseconds since 1970, for people
CREATE TABLE coord.values (
    namespace text   COLLATE "C" NOT NULL,
    key       text   COLLATE "C" NOT NULL,
    version   bigint NOT NULL,
    mark      bigint,
    at        bigint NOT NULL,
    author    text   NOT NULL,
    value     bytea,
    PRIMARY KEY (namespace, key)
);

-- The last changes of each namespace, in their order.
CREATE TABLE coord.value_log (
    place     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    namespace text   COLLATE "C" NOT NULL,
    key       text   COLLATE "C" NOT NULL,
    version   bigint NOT NULL,
    mark      bigint,
    at        bigint NOT NULL,
    author    text   NOT NULL,
    value     bytea
);

CREATE INDEX value_log_order ON coord.value_log (namespace, place);
CREATE INDEX value_log_version ON coord.value_log (namespace, version);
CREATE INDEX value_log_key ON coord.value_log (namespace, key, place);

-- The last transactions, so that one whose answer was lost is not done twice.
CREATE TABLE coord.writes (
    id       bytea  PRIMARY KEY,
    revision bigint NOT NULL,
    until    bigint NOT NULL
);

CREATE INDEX writes_until ON coord.writes (until);

-- Forgets the changes of a namespace but for the last thousand, and of those all before the last 16 MiB.
CREATE FUNCTION coord.forget(p_namespace text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    entries bigint := (SELECT count(*) FROM coord.value_log WHERE namespace = p_namespace);
    bytes   bigint := (SELECT logged FROM coord.namespaces WHERE namespace = p_namespace);
    oldest  record;
BEGIN
    WHILE entries > 1000 OR (bytes > 16777216 AND entries > 1) LOOP
        DELETE FROM coord.value_log WHERE place =
            (SELECT place FROM coord.value_log WHERE namespace = p_namespace ORDER BY place LIMIT 1)
        RETURNING version, coalesce(length(value), 0) AS size INTO oldest;
        EXIT WHEN NOT FOUND;
        entries := entries - 1;
        bytes := bytes - oldest.size;
        UPDATE coord.namespaces SET forgotten = greatest(forgotten, oldest.version), logged = bytes
        WHERE namespace = p_namespace;
    END LOOP;
END $$;

-- `coord_core::spi::values::Values::commit`. The lists have an element for each write, in order.
--   conditions  0 any, 1 absent, 2 the version in `arguments`, 3 the token in `arguments`
--   changes     0 put, 1 delete, 2 fence
--   refused     the place of the first write whose condition does not hold, with what stands there; else null
CREATE FUNCTION coord.commit(
    p_namespace text, p_id bytea, p_author text, p_memory bigint,
    p_keys text[], p_conditions integer[], p_arguments bigint[], p_changes integer[], p_values bytea[],
    OUT done bigint, OUT refused integer,
    OUT key text, OUT version bigint, OUT mark bigint, OUT at bigint, OUT author text, OUT value bytea
) LANGUAGE plpgsql AS $$
DECLARE
    now   bigint;
    stands record;
    given bigint;
BEGIN
    LOOP
        SELECT n.revision INTO done FROM coord.namespaces AS n WHERE n.namespace = p_namespace FOR UPDATE;
        EXIT WHEN FOUND;
        INSERT INTO coord.namespaces (namespace, revision, forgotten)
        SELECT p_namespace, base, base FROM coord.life ON CONFLICT DO NOTHING;
    END LOOP;
    now := coord.milliseconds();
    SELECT w.revision INTO given FROM coord.writes AS w WHERE w.id = p_id;
    IF FOUND THEN
        done := given;
        RETURN;
    END IF;
    FOR i IN 1 .. cardinality(p_keys) LOOP
        SELECT * INTO stands FROM coord.values AS v WHERE v.namespace = p_namespace AND v.key = p_keys[i];
        -- Of a row that is missing all columns are null.
        IF NOT (CASE p_conditions[i]
            WHEN 3 THEN coalesce(stands.mark <= p_arguments[i], true)
            WHEN 0 THEN stands.mark IS NULL
            WHEN 1 THEN stands.mark IS NULL AND stands.value IS NULL
            ELSE stands.mark IS NULL AND stands.value IS NOT NULL AND stands.version = p_arguments[i]
        END) THEN
            done := NULL;
            refused := i - 1;
            key := stands.key;
            version := stands.version;
            mark := stands.mark;
            at := stands.at;
            author := stands.author;
            value := stands.value;
            RETURN;
        END IF;
    END LOOP;

    PERFORM coord.durably();
    done := greatest(done + 1, coord.microseconds());
    UPDATE coord.namespaces AS n SET revision = done WHERE n.namespace = p_namespace;
    FOR i IN 1 .. cardinality(p_keys) LOOP
        given := CASE WHEN p_conditions[i] = 3 THEN p_arguments[i] END;
        -- What is not there is not deleted; a token raises the mark all the same.
        IF p_changes[i] = 2 OR (p_changes[i] = 1 AND NOT EXISTS (
            SELECT 1 FROM coord.values AS v
            WHERE v.namespace = p_namespace AND v.key = p_keys[i] AND v.value IS NOT NULL)) THEN
            IF given IS NOT NULL THEN
                INSERT INTO coord.values AS v (namespace, key, version, mark, at, author, value)
                VALUES (p_namespace, p_keys[i], done, given, now, p_author, NULL)
                ON CONFLICT ON CONSTRAINT values_pkey DO UPDATE SET mark = excluded.mark;
            END IF;
            CONTINUE;
        END IF;
        INSERT INTO coord.values AS v (namespace, key, version, mark, at, author, value)
        VALUES (p_namespace, p_keys[i], done, given, now, p_author, CASE WHEN p_changes[i] = 0 THEN p_values[i] END)
        ON CONFLICT ON CONSTRAINT values_pkey DO UPDATE SET version = excluded.version,
            mark = coalesce(excluded.mark, v.mark), at = excluded.at, author = excluded.author, value = excluded.value;
        INSERT INTO coord.value_log (namespace, key, version, mark, at, author, value)
        SELECT v.namespace, v.key, v.version, v.mark, v.at, v.author, v.value
        FROM coord.values AS v WHERE v.namespace = p_namespace AND v.key = p_keys[i];
        UPDATE coord.namespaces AS n SET logged = logged + coalesce(length(p_values[i]), 0)
        WHERE n.namespace = p_namespace;
        DELETE FROM coord.values AS v
        WHERE v.namespace = p_namespace AND v.key = p_keys[i] AND v.value IS NULL AND v.mark IS NULL;
        PERFORM coord.wake(w.client, 'l' || w.line) FROM coord.watches AS w
        WHERE w.line BETWEEN 'config/' || p_namespace || '/' AND 'config/' || p_namespace || '/' || p_keys[i]
          AND starts_with('config/' || p_namespace || '/' || p_keys[i], w.line);
    END LOOP;
    PERFORM coord.forget(p_namespace);
    DELETE FROM coord.writes AS w WHERE w.id IN (
        SELECT late.id FROM coord.writes AS late WHERE late.until <= now ORDER BY late.until LIMIT 1000
        FOR UPDATE SKIP LOCKED);
    INSERT INTO coord.writes (id, revision, until) VALUES (p_id, done, now + p_memory);
END $$;
