-- Replace the catalog of pools and flavors.
-- KEYS: the catalog (hash: version, catalog). ARGV: the version that has to be in place (0 if there is none yet), the new one, the
-- catalog. Reply: 1, or 0 if another version is in place. Of two callers that have read the same version one succeeds.
-- If the first answer was lost, a second run would reply 0, so it is not sent again.
if (redis.call('HGET', KEYS[1], 'version') or '0') ~= ARGV[1] then
  return 0
end
redis.call('HSET', KEYS[1], 'version', ARGV[2], 'catalog', ARGV[3])
return 1
