"""Rows of text -> packed batches: rows, chat, cache, documents, packing, order, in this order."""
