"""A checkpoint's linear layers to FP8, streamed: one pass over the files, a few MB in memory."""
