"""One file per architecture; `registry` finds the one of a checkpoint."""
