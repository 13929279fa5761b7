-- Remove all posts and deliveries of the queue. Their memory is given back by a thread of the server.
for _, key in ipairs({ POSTED, DUE, TURNS, KEPT }) do
  call('ZREM', key, UID)
end
for letter in string.gmatch('ptijbgwunhqa', '.') do
  call('UNLINK', PREFIX .. letter)
end
