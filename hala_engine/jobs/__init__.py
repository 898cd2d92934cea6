"""What jobs over the rows of a dataset have in common: plan, shards, answers kept, resuming,
progress, manifest. `translate` and `judge` are such jobs."""
