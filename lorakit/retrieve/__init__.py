"""Retrieval: documents into chunks, chunks into an index, the best of them into a prompt."""
