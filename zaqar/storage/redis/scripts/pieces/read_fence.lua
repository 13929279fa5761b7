local fence = call('HMGET', FENCE, 'g', 'n', 'a', 'b')
