-- Remove all messages and claims. UNLINK gives the memory back in a thread of the server, so the size does not matter.
for _, word in ipairs({
  'messages', 'states', 'ready', 'expiry', 'claimed', 'delayed', 'due', 'claims', 'claim_ends',
  'set_aside', 'set_aside_messages', 'expired',
}) do
  call('UNLINK', PREFIX .. word)
end
