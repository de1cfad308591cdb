#!/bin/sh
# Starts the server with its users, whose passwords are the secrets' files. The file with the
# users lies in memory and holds digests only.
set -eu
umask 077

digest() { tr -d '\r\n' <"/run/secrets/$1" | sha256sum | cut -d ' ' -f 1; }

users=/run/redis/users.acl
prefix="${QUEUE_PREFIX:-chatgenius}"
{
  # Whoever gives no name gets nothing.
  echo "user default off"
  # The application: its own keys, and no command that administers the server or other clients.
  echo "user headrace on #$(digest redis_password) resetkeys ~{$prefix}:* ~{$prefix:* resetchannels +@all -@admin -@dangerous +info +client|unblock"
  # The health check.
  echo "user health on nopass resetkeys resetchannels -@all +ping"
} >"$users"

exec redis-server \
  --aclfile "$users" \
  --dir /data \
  --appendonly yes --appendfsync everysec \
  --maxmemory "${REDIS_MAXMEMORY:-768mb}" --maxmemory-policy noeviction
