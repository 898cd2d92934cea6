"""Building blocks that the models share. Every tensor between them is packed: [T, ...]."""
