-- One signal unblocks one consumer (they read with COUNT 1). What nobody waits for is trimmed.
local SIGNALS_KEPT = 64

local function signal(wake, count)
  for _ = 1, math.min(count, SIGNALS_KEPT) do
    redis.call("XADD", wake, "MAXLEN", SIGNALS_KEPT, "*", "s", "")
  end
end

-- Consumers of an open queue read its levels; those of a paused or limited one wait for signals.
local function signal_if_gated(control, wake, count)
  if count > 0 and redis.call("EXISTS", control) == 1 then
    signal(wake, count)
  end
end

-- More signals than there are consumers, so that every blocked one looks again, and one that is
-- about to block for the first time as well.
local function signal_all(wake)
  local consumers = redis.pcall("XINFO", "CONSUMERS", wake, "workers")
  local count = consumers.err and 1 or #consumers + 1
  for _ = 1, count do
    redis.call("XADD", wake, "MAXLEN", math.max(SIGNALS_KEPT, count), "*", "s", "")
  end
end
