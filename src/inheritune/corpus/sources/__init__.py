"""Sources of text: files, addresses and streams, and where a document begins and ends in them."""
