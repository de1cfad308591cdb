#!/bin/sh
# Writes the server's users, one for each role, as `headrace acl` prints them. Of the passwords,
# which are the secrets' files, it writes digests.
set -eu
umask 022 # the server's own user reads it

users=/users/users.acl
{
  echo "user default off" # whoever gives no name gets nothing
  echo "user health on nopass resetkeys resetchannels -@all +ping"
  headrace acl worker --password-file /run/secrets/redis_worker_password --own "{$QUEUE_PREFIX}:*"
  headrace acl scheduler --password-file /run/secrets/redis_scheduler_password
  headrace acl admin --password-file /run/secrets/redis_admin_password
} >"$users.new"
mv "$users.new" "$users"
