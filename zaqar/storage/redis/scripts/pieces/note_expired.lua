-- Expired messages were removed. Note at the fence how many, for the next sweep to tell. This comes after their removal: a server
-- without free memory lets a script go on that began with a removal.
local function note_expired(count)
  if count > 0 then
    call('HINCRBY', FENCE, 'expired', count)
  end
end
