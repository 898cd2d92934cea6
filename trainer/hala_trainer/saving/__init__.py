"""What outlives a run: checkpoints to go on from, and the model for others."""
