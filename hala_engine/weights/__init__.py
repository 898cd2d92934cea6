"""Checkpoints on disk: reading safetensors, one tensor at a time."""
