"""The operations of the engine and the trainer: one operation a file, its reference in torch.

Tensors of a step are *packed*: the tokens of all sequences lie one after the other in one
dimension T, without padding, and `cu_seqlens` [S+1] says where each sequence starts. The state of a
sequence lives in pools that the caller owns: K and V in pages of `page_size` tokens, convolution
states in slots.
"""
