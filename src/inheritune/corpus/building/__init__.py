"""Text becomes token shards in four stages: collect, tokenise, select and write. Each task of a stage runs once."""
