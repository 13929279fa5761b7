-- KEYS: the catalog. ARGV: the version that has to be in place, the new one, the catalog
if (redis.call('HGET', KEYS[1], 'version') or '0') ~= ARGV[1] then
  return 0
end
redis.call('HSET', KEYS[1], 'version', ARGV[2], 'catalog', ARGV[3])
return 1
