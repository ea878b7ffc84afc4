"""Building: text becomes token shards in stages (collect, tokenise, select, write), each in tasks that run once."""
