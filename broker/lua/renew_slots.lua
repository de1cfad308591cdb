#!lua flags=allow-oom
-- renew_slots: hold the slots of jobs that still run.
-- KEYS[1..] slots    ZSET    holder -> end of its lease, unix ms; one for each holder
-- ARGV[1] lease      int     ms from now
-- ARGV[2..] holder   str
-- Returns the indexes, from 1, of those that are lost: their lease ran out
-- Errors  none of its own
-- Cost    O(log N) a slot, N slots of its key
--@include clock
--@include line
--@include slots
local now, lost = now_ms(), {}
for i = 2, #ARGV do
  local slots = KEYS[i - 1]
  if redis.call("ZSCORE", slots, ARGV[i]) then
    lease_slot(slots, ARGV[i], now, tonumber(ARGV[1]))
  else
    lost[#lost + 1] = i - 1
  end
end
return lost
