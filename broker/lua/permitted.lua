#!lua flags=no-writes
-- permitted: ask which commands the user who runs this may not run, without running one.
-- KEYS[1..] asked     STREAM or of any other type: those of the script that is going to run the commands
-- ARGV[1..] command   msgpack [its words, a key as its number among KEYS]
-- Returns the numbers of the commands that are denied, from 1
-- Errors  none of its own
-- Cost    O(commands * rules), rules of the user
local denied = {}
for i = 1, #ARGV do
  local command = cmsgpack.unpack(ARGV[i])
  for place, word in ipairs(command) do
    command[place] = KEYS[word] or word
  end
  if not redis.acl_check_cmd(unpack(command)) then
    denied[#denied + 1] = i
  end
end
return denied
