#!lua flags=no-writes
-- held_events: which of these events are in a consumer's hands.
-- KEYS[1] events      STREAM  the application's
-- ARGV[1] group       str
-- ARGV[2..] id        str
-- Returns the ids
-- Errors  none of its own
-- Cost    O(log P) an event, P pending events
local held = {}
for i = 2, #ARGV do
  if #redis.call("XPENDING", KEYS[1], ARGV[1], ARGV[i], ARGV[i], 1) > 0 then
    held[#held + 1] = ARGV[i]
  end
end
return held
