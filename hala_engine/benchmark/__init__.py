"""What the engine does on this machine: random prompts of given lengths through a model, or through
an architecture with random weights. `run.run` is the whole of it."""
