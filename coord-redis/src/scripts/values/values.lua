-- The values of a namespace. This piece stands in front of every script of this folder.
--
-- Keys, the same in all of them, under the hash tag `<namespace>/config`:
--   1  entries  HASH  key -> entry; a deleted key stays only if it has a mark
--   2  keys     ZSET  the keys that have a value, score 0, so in the order of their bytes
--   3  log      ZSET  the last changes: version (8 bytes), place in its transaction (2 bytes), key; score 0
--   4  states   HASH  member of the log -> the entry as that change left it
--   5  meta     HASH  revision: of the last change; forgotten: of the last change that the log does not know any more;
--                     bytes: what the log holds
--
-- Stable on the wire: an entry is version, mark (0: none), microseconds since 1970 (8 bytes each, the greatest first),
-- whether there is a value, the length of the author's name (1 byte each), the author's name, the value.
-- Revisions are below 2^53, so that they are exact as numbers here.
local ENTRIES, ORDER, LOG, STATES, META = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]

local function number(field)
  return tonumber(redis.call('HGET', META, field)) or 0
end

-- Entries may be long: an answer ends after the one that reaches this many bytes.
local ENOUGH = 4194304
