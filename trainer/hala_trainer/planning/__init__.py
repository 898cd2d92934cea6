"""`--dry-run`: what a run will be and the memory it takes, without running it."""
