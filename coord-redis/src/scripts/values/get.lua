-- Reads one key.
--   keys    as above
--   args    1 the key
--   result  the revision; the entry, or nil
return { number('revision'), redis.call('HGET', ENTRIES, ARGV[1]) }
