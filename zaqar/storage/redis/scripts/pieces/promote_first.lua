-- Promote what is due before the operation reads. Mostly nothing is due, so not even the functions for it are made.
if now >= due_from then
  -- include: promote_due
  if not promote_due(BATCH) then
    return MORE_IS_DUE
  end
end
