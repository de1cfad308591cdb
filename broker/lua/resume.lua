#!lua flags=allow-oom
-- resume: end a pause.
-- KEYS[1] control  HASH
-- KEYS[2] wake     STREAM
-- Returns 1 if the queue was paused, 0 if it was running already
-- Errors  none of its own
-- Cost    O(C), C consumers
--@include wake
local changed = redis.call("HDEL", KEYS[1], "paused")
signal_all(KEYS[2])
return changed
