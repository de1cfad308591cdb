-- What `most` says: how many messages the queue may hold, 0 for any number; and whether it is for
-- what a job sends, which a closed queue takes: then it is below 0, by one more than the number.
local function bound_of(most)
  if most < 0 then
    return -most - 1, true
  end
  return most, false
end

-- Whether a queue takes nothing more. The repeat of what was let in before passes: its `first`
-- message has this attempt's token.
local function refuses(control, token, job_prefix, first)
  return first
    and redis.call("HEXISTS", control, "closed") == 1
    and redis.call("HGET", job_prefix .. first, "token") ~= token
end
