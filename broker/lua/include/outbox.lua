-- Put a letter into the outbox: what has to be done in another slot, or later. It stays until it is
-- done, whoever dies; doing it twice changes nothing. `keys` has outbox and letters.
local function post(keys, kind, to, body)
  local id = redis.call("XADD", keys.outbox, "*", "kind", kind, "to", to, "body", body)
  keys.letters[#keys.letters + 1] = { id, kind, to, body }
end

-- Tell a flow of the end of its message. `place` is false for a message of none.
local function tell_flow(keys, place, state, result, error)
  if place then
    post(keys, "end", place, cmsgpack.pack({ state, result, error }))
  end
end
