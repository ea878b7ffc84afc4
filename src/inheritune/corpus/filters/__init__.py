"""Which documents are left out: each on its own (quality, language ...), or beside all others (near-duplicates)."""
