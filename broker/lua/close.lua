#!lua flags=allow-oom
-- close: take nothing more from producers; what is there, and what its jobs send, runs.
-- KEYS[1] control  HASH
-- Returns 1 if the queue was open, 0 if it was closed already
-- Errors  none of its own
-- Cost    O(1)
return redis.call("HSETNX", KEYS[1], "closed", "1")
