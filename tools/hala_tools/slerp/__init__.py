"""hala-slerp: merges a base model and a tuned one by spherical interpolation, with numpy alone.

`prepare` makes every check that needs no values, `merge` streams the tensors.
"""
