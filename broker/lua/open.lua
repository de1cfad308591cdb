#!lua flags=allow-oom
-- open: take messages from producers again.
-- KEYS[1] control  HASH
-- Returns 1 if the queue was closed, 0 if it was open already
-- Errors  none of its own
-- Cost    O(1)
return redis.call("HDEL", KEYS[1], "closed")
