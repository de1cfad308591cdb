-- Decide whether a message may enter its queue, and note it in its record.
-- `claim` is false or {deduplication key, ttl ms or 0, outlives its message}.
-- Returns the id under which the message is known: its own, or that of the earlier message
-- whose deduplication key it shares; and whether the caller is to store it.
-- Needs now_ms and release_deduplication.
local function holder_of(keys, key)
  local holder = redis.call("HGET", keys.dedup, key)
  local until_ms = holder and redis.call("ZSCORE", keys.lapsing, key)
  return (not until_ms or tonumber(until_ms) > now_ms()) and holder
end

local function hold(keys, claim, record, id)
  redis.call("HSET", keys.dedup, claim[1], id)
  if claim[2] > 0 then
    redis.call("ZADD", keys.lapsing, now_ms() + claim[2], claim[1])
  else
    redis.call("ZREM", keys.lapsing, claim[1])
  end
  if not claim[3] then
    redis.call("HSET", record, "dedup", claim[1])
  end
end

local function admit(keys, token, id, claim, successor)
  local record = keys.job_prefix .. id
  local known = redis.call("HSETNX", record, "token", token) == 0
  local live, held = false, false
  if known then
    local prior = redis.call("HMGET", record, "token", "state", "dedup")
    live, held = not prior[2], prior[3]
    if prior[1] == token or (live and not successor) then
      return id, false
    end
  end
  if claim then
    local holder = holder_of(keys, claim[1])
    if holder and holder ~= id then
      if not known then
        redis.call("DEL", record)
      end
      return holder, false
    end
  end
  if live then  -- a successor beside the copy that runs; its key is the message's from now on
    redis.call("HINCRBY", record, "others", 1)
    redis.call("HSET", record, "token", token)
    if held and not (claim and held == claim[1]) then
      release_deduplication(keys, held, id)
      redis.call("HDEL", record, "dedup")
    end
  elseif known then
    redis.call("DEL", record)
    redis.call("HSET", record, "token", token)
  end
  if claim then
    hold(keys, claim, record, id)
  end
  return id, true
end
