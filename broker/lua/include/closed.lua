-- Whether a queue takes nothing more. The repeat of what was let in before passes: its `first`
-- message has this attempt's token.
local function refuses(control, token, job_prefix, first)
  return first
    and redis.call("HEXISTS", control, "closed") == 1
    and redis.call("HGET", job_prefix .. first, "token") ~= token
end
