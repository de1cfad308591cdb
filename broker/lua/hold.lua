#!lua flags=allow-oom
-- hold: start no more jobs of a key for a while; those that come are parked until then.
-- KEYS[1] key        HASH    held_until, unix ms
-- ARGV[1] delay      int     ms from now, by the server's clock
-- Returns until when, unix ms: a longer hold is not shortened
-- Errors  none of its own
-- Cost    O(1)
--@include clock
--@include line
local now = now_ms()
local before = tonumber(redis.call("HGET", KEYS[1], "held_until") or "") or 0
local held_until = math.max(before, now + tonumber(ARGV[1]))
redis.call("HSET", KEYS[1], "held_until", string.format("%.0f", held_until))
keep_for(KEYS[1], held_until - now + STATE_KEPT_MS)
return held_until
