-- Whether a message has not ended: it waits, runs or is to run again.
local function unfinished(record)
  return redis.call("EXISTS", record) == 1 and redis.call("HEXISTS", record, "state") == 0
end
