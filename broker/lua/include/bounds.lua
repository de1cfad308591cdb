-- The delivery count from which an entry may be what kills workers; delivery.py has the same.
local SUSPECT_FROM = 3
-- Parts of an entry at the most: unpack takes no more. letter_commands.py has the same.
local MOST_PARTS = 7000
-- Whether so many parts are an entry: fields and values, in pairs.
local function are_pairs(parts)
  return parts > 0 and parts % 2 == 0 and parts <= MOST_PARTS
end
