"""From text to token shards: collect, tokenise, select, write, each in tasks that are done once."""
