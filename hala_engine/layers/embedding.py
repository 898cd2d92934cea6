"""The vocabulary: token embeddings on the way in, scores of tokens on the way out."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from hala_engine.layers.linear import DenseProduct, Linear, TiledProduct, can_tile
from hala_engine.weights.loading import Weights
from hala_kernels import linear as tiled


class Vocabulary(nn.Module):
    """One matrix for both if `tied`; names are those of Hugging Face checkpoints."""

    def __init__(self, w: Weights, size: int, hidden: int, *, tied: bool) -> None:
        super().__init__()
        self.embedding: torch.Tensor | None = w.tensor("model.embed_tokens.weight", size, hidden)
        self.head = None if tied else Linear(w, hidden, {"lm_head": size})
        if tied and can_tile(self.embedding):
            self._tied = TiledProduct(self.embedding)
            self.embedding = None  # its rows are read from the packed matrix
        else:
            # Not packed: the embedding is read by row.
            self._tied = DenseProduct(self.embedding, w.place.invariant, packed=False)

    def embed(self, token_ids: torch.Tensor) -> torch.Tensor:
        """[T] int64 -> [T, hidden]."""
        if self.embedding is None:
            return tiled.rows(self._tied.weight, token_ids)
        return F.embedding(token_ids, self.embedding)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """[S, hidden] -> [S, vocab]."""
        return self._tied(hidden, None, None) if self.head is None else self.head(hidden)
