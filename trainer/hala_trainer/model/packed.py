"""A causal language model of `transformers` whose forward pass is the loss of packed documents.

Weights, names and arithmetic of the blocks are those of `transformers`. What differs is put in from
outside: attention and convolution that stop at document boundaries, and an output layer that meets
only the positions that predict a supervised token, fused with its cross-entropy.
"""

from dataclasses import dataclass

import torch
from torch import nn

from hala_kernels.cross_entropy import linear_cross_entropy
from hala_trainer.data.packing import Batch
from hala_trainer.model import attention, short_conv

ARCHITECTURES = ("lfm2", "gemma2", "cohere2", "qwen2")


@dataclass(frozen=True)
class Inputs:
    """A batch of R rows of L tokens on the device."""

    ids: torch.Tensor  # int64 [R, L]
    positions: torch.Tensor  # int64 [R, L], restarting at each document
    documents: torch.Tensor  # int32 [R, L]
    predicting: torch.Tensor  # int64 [S], places in R * L whose next token is supervised
    targets: torch.Tensor  # int64 [S], those tokens

    @staticmethod
    def of(batch: Batch, device: torch.device) -> "Inputs":
        ids = torch.from_numpy(batch.ids)
        supervised = torch.from_numpy(batch.supervised).flatten().nonzero().squeeze(1)
        parts = (
            ids,
            torch.from_numpy(batch.positions),
            torch.from_numpy(batch.documents),
            supervised - 1,
            ids.flatten()[supervised],
        )
        if device.type == "cuda":
            parts = (part.pin_memory().to(device, non_blocking=True) for part in parts)
        return Inputs(*parts)


class PackedModel(nn.Module):
    """`model`: a `ForCausalLM` of one of `ARCHITECTURES`, with attention `attention.NAME`. A tied
    output layer is taken out of it: it is the embedding, once."""

    def __init__(self, model: nn.Module, compute: torch.dtype) -> None:
        super().__init__()
        self.config = model.config
        self.compute = compute
        self.model = model.model
        self.lm_head = None if model.config.tie_word_embeddings else model.lm_head
        short_conv.patch(self.model)
        embedding = self.embedding
        if hasattr(embedding, "embed_scale"):
            # Gemma2's inference rounds the factor to the dtype of the weights; so do we.
            embedding.embed_scale = embedding.embed_scale.to(compute).float()

    @property
    def embedding(self) -> nn.Module:
        return self.model.embed_tokens

    @property
    def blocks(self) -> nn.ModuleList:
        return self.model.layers

    def forward(self, inputs: Inputs) -> torch.Tensor:
        """Cross-entropy summed over the supervised tokens, a float32 scalar."""
        c = self.config
        return linear_cross_entropy(
            self.predicting(inputs),
            self.get_output_embeddings().weight,
            inputs.targets,
            logit_scale=getattr(c, "logit_scale", 1.0),
            softcap=getattr(c, "final_logit_softcapping", None),
        )

    def predicting(self, inputs: Inputs) -> torch.Tensor:
        """Final hidden states [S, C] of the positions whose next token is supervised."""
        extra = {"seq_idx": inputs.documents} if self.config.model_type == "lfm2" else {}
        hidden = self.model(
            inputs_embeds=self.embedding(inputs.ids).to(self.compute),
            position_ids=inputs.positions,
            attention_mask=attention.masks(inputs.documents, self.config),
            use_cache=False,
            **extra,
        ).last_hidden_state  # [R, L, C]
        return hidden.flatten(0, 1)[inputs.predicting].to(self.compute)

    def get_input_embeddings(self) -> nn.Module:
        return self.embedding

    def get_output_embeddings(self) -> nn.Module:
        """The output layer: the embedding itself where they are tied."""
        return self.lm_head or self.embedding
