"""Loading a model, and its loss on a packed batch."""

import os
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from hala_kernels.cross_entropy import linear_cross_entropy
from hala_trainer.config import ModelConfig
from hala_trainer.errors import InputError
from hala_trainer.packing import Batch


@dataclass
class Trainee:
    """The model that computes, and the float32 weights that the optimizer owns.

    In bfloat16 the blocks hold bfloat16 copies of their master weights: that costs one cast per
    step, where autocast costs one per use. The embedding stays float32 in the model itself, since
    the gradient of a frequent token sums thousands of terms, which bfloat16 would swallow.
    """

    model: nn.Module
    masters: dict[str, torch.Tensor]  # by parameter name; tied weights once

    def collect_gradients(self) -> None:
        """Add the model's gradients to the masters', so that micro-batches sum in float32."""
        for name, p in self.model.named_parameters():
            master = self.masters[name]
            if master is p or p.grad is None:
                continue
            if master.grad is None:
                master.grad = p.grad.float()
            else:
                master.grad += p.grad
            p.grad = None

    @torch.no_grad()
    def publish_masters(self) -> None:
        """Copy the stepped master weights into the model."""
        pairs = [(p, self.masters[n]) for n, p in self.model.named_parameters()]
        pairs = [(p, m) for p, m in pairs if p is not m]
        if pairs:
            torch._foreach_copy_([p for p, _ in pairs], [m for _, m in pairs])


def load_tokenizer(path: str):
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: no usable tokenizer ({_first_line(error)})") from None


def load_model(config: ModelConfig, compile_blocks: bool) -> Trainee:
    from transformers import AutoConfig, AutoModelForCausalLM

    local = Path(config.path)
    if local.exists() and not (local / "config.json").is_file():
        raise InputError(f"{config.path}: no config.json in it")
    try:
        hf_config = AutoConfig.from_pretrained(config.path)
        if config.init == "random":
            torch.manual_seed(config.seed)
            model = AutoModelForCausalLM.from_config(
                hf_config, dtype=torch.float32, attn_implementation=config.attention
            )
        else:
            model = AutoModelForCausalLM.from_pretrained(
                config.path, dtype=torch.float32, attn_implementation=config.attention
            )
    except (OSError, ValueError) as error:
        raise InputError(f"{config.path}: cannot load the model ({_first_line(error)})") from None
    if hf_config.model_type != "lfm2":
        raise InputError(f"{config.path}: {hf_config.model_type} models are not supported; lfm2 is")
    from hala_trainer import packed_lfm2

    packed_lfm2.patch(model)
    model.train()
    masters = dict(model.named_parameters())
    if config.compute == "bfloat16":
        embedding = model.get_input_embeddings().weight
        for name, p in masters.items():
            if p is not embedding:
                masters[name] = p.data.clone().requires_grad_()
                p.data = p.data.to(torch.bfloat16)
    if compile_blocks:
        os.environ.setdefault("TORCHINDUCTOR_FX_GRAPH_CACHE", "1")
        for block in model.model.layers:
            block.compile(dynamic=False)
    return Trainee(model, masters)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def block_mask(documents: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Additive mask [R, 1, L, L]: a token sees itself and what precedes it in its document."""
    length = documents.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=documents.device).tril()
    seen = (documents[:, :, None] == documents[:, None, :]) & causal
    mask = torch.zeros(seen.shape, dtype=dtype, device=documents.device)
    return mask.masked_fill_(~seen, torch.finfo(dtype).min).unsqueeze(1)


def batch_loss(trainee: Trainee, batch: Batch) -> torch.Tensor:
    """Summed cross-entropy over the supervised tokens of a batch, as a float32 scalar."""
    model = trainee.model
    weight = model.get_input_embeddings().weight
    compute = next(model.model.layers.parameters()).dtype
    ids = torch.from_numpy(batch.ids)
    documents = torch.from_numpy(batch.documents)
    hidden = model.model(
        inputs_embeds=F.embedding(ids, weight).to(compute),
        position_ids=torch.from_numpy(batch.positions),
        attention_mask={"full_attention": block_mask(documents, compute), "conv": None},
        seq_idx=documents,
        use_cache=False,
    ).last_hidden_state  # [R, L, C]
    # Only the positions that predict a supervised token meet the output layer.
    rows, columns = torch.from_numpy(batch.supervised).nonzero(as_tuple=True)
    predicting = hidden[rows, columns - 1]
    return linear_cross_entropy(predicting, model.lm_head.weight, ids[rows, columns])
