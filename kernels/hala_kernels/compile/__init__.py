"""The compile gate: every kernel in every launch configuration, built without a GPU.

`python -m hala_kernels.compile` calls the public operations on tensors of the meta device, as if a
chip were there, and compiles each launch that they make for sm_89, sm_90 and sm_100. So what is
built is what a user's call would build: the same constants, the same argument specialisation. It
prints registers, spills, shared memory and tensor-core instructions, and fails on any spill, on
shared memory over the chip's limit, on a missing instruction that a case demands, and on a launch
configuration that no case reaches.
"""
