#!lua flags=no-writes
-- live: tell which messages were enqueued and have not ended.
-- KEYS[1] job prefix  prefix of the records, completed with the message id
-- ARGV[1..] id        str     of a message
-- Returns 1 for each message whose record has a token and no final state, 0 for the others
-- Errors  none of its own
-- Cost    O(1) a message
local live, job_prefix = {}, KEYS[1]
for i = 1, #ARGV do
  local record = redis.call("HMGET", job_prefix .. ARGV[i], "token", "state")
  -- An empty token is what a worker has noted of an entry that nobody enqueued.
  live[i] = record[1] and record[1] ~= "" and not record[2] and 1 or 0
end
return live
