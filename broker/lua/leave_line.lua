#!lua flags=allow-oom
-- leave_line: take a job that was cancelled out of the line of its key; the next comes in its place.
-- KEYS[1] line       ZSET    id -> place
-- KEYS[2] scheduled  ZSET    id -> due time, unix ms
-- KEYS[3] wake       STREAM
-- KEYS[4] job prefix prefix of the records, completed with the message id
-- ARGV[1] id         str
-- ARGV[2] due        int     when it would have come, unix ms; 0: now
-- Returns 1 if the next one comes sooner for that, else 0
-- Errors  none of its own
-- Cost    O(log N), N scheduled or in line, and as much a job found ended
--@include clock
--@include wake
--@include line
local due = tonumber(ARGV[2])
if due == 0 then
  due = now_ms()
end
if not leave_line(KEYS[1], KEYS[2], KEYS[4], ARGV[1], due) then
  return 0
end
signal(KEYS[3], 1)
return 1
