-- Note in a message's record that a delivery ended unsettled: one line, when and whose it was.
-- The oldest lines go.
local LOST_BYTES = 2000

local function note_lost(record, now, owner)
  local lost = (redis.call("HGET", record, "lost") or "") .. string.format("%d", now) .. " " .. owner .. "\n"
  while #lost > LOST_BYTES do
    local first = string.find(lost, "\n", 1, true)
    if first == #lost then  -- a single line
      break
    end
    lost = string.sub(lost, first + 1)
  end
  redis.call("HSET", record, "lost", lost)
end
