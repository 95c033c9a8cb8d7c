-- token  of the delivery by whose word the item was given up; null if its lease had ended. So a word that is sent again is told
--        from one that is late.
ALTER TABLE coord_dead_items ADD COLUMN token INTEGER;
