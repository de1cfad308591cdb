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
-- about to block for the first time as well. Of more than so many the rest looks at its next fetch.
local MOST_SIGNALS = 1000
local function signal_all(wake)
  local groups, count = redis.pcall("XINFO", "GROUPS", wake), 1
  local group = not groups.err and groups[1] or {}
  for i = 1, #group, 2 do
    if group[i] == "consumers" then
      count = math.min(group[i + 1] + 1, MOST_SIGNALS)
    end
  end
  for _ = 1, count do
    redis.call("XADD", wake, "MAXLEN", math.max(SIGNALS_KEPT, count), "*", "s", "")
  end
end
