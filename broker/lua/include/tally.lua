-- A tally's fields are bounded: what is new when it has so many is counted together.
local MOST_KINDS = 200
local MOST_BYTES = 100

local function name(text)
  return (text:sub(1, MOST_BYTES):gsub("[^\32-\126]", "?"))
end

local function kind(reason, actor, error_type)
  return cmsgpack.pack({ name(reason), name(actor), name(error_type) })
end

local function add(tally, kind_of_failure, count)
  if redis.call("HEXISTS", tally, kind_of_failure) == 0 and redis.call("HLEN", tally) > MOST_KINDS then
    kind_of_failure = kind("other", "", "")
  end
  if redis.call("HINCRBY", tally, kind_of_failure, count) <= 0 then
    redis.call("HDEL", tally, kind_of_failure)
  end
end
