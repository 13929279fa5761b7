-- The memory is given back by a thread of the server.
for letter in string.gmatch('msrlcdokexyz', '.') do
  call('UNLINK', PREFIX .. letter)
end
