#!lua flags=allow-oom
-- pause: hand over nothing more of this queue until it is resumed; enqueueing goes on.
-- KEYS[1] control  HASH
-- KEYS[2] wake     STREAM  every blocked consumer is unblocked, so that none takes an entry past the pause
-- Returns 1 if the queue was running, 0 if it was paused already
-- Errors  none of its own
-- Cost    O(C), C consumers
--@include wake
local changed = redis.call("HSETNX", KEYS[1], "paused", "1")
signal_all(KEYS[2])
return changed
