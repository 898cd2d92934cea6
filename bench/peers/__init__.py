"""The programs measured, one per file, each run in a process of its own by `bench.peers.worker`.

A peer is a class with `__init__(job)`, which loads the weights, and
`run(prompts, wanted, batch) -> list[list[int]]`, which decodes greedily exactly `wanted[i]` new
tokens for `prompts[i]`, at most `batch` sequences at a time, and returns their ids.
`logits(ids)` returns next-token logits at every position, for the check that all run one model.
"""
