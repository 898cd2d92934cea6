"""The same work by `transformers` alone: batches in arrival order, padded on the left to their
longest prompt, each decoded until its longest output ends."""

from __future__ import annotations

from pathlib import Path

import torch

from hala_engine.errors import JobError

PAD = 0


class Baseline:
    """`path`: a model directory, or, for random weights, a config.json. Raises JobError where
    transformers cannot make the model."""

    def __init__(
        self, path: Path, *, random_weights: bool, dtype: torch.dtype, device: torch.device
    ) -> None:
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        try:
            if random_weights:
                model = _random_model(path, dtype, device)
            else:
                model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype).to(device)
        except (ImportError, OSError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise JobError(f"--baseline transformers cannot load {path}: {reason}") from error
        self.model, self._device = model.eval(), device
        # Without an end token generate() stops by length alone, and needs no logits processor.
        model.generation_config.eos_token_id = None
        model.generation_config.pad_token_id = PAD

    def generate(
        self, prompts: list[list[int]], wanted: list[int], batch_size: int
    ) -> list[list[int]]:
        """`wanted[i]` greedy tokens for `prompts[i]`, `batch_size` prompts at a time."""
        outputs: list[list[int]] = []
        for start in range(0, len(prompts), batch_size):
            window = slice(start, start + batch_size)
            outputs += self._batch(prompts[window], wanted[window])
        return outputs

    def _batch(self, prompts: list[list[int]], wanted: list[int]) -> list[list[int]]:
        width = max(map(len, prompts))
        ids = torch.full((len(prompts), width), PAD)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            mask[row, width - len(prompt) :] = 1
        new = self.model.generate(
            input_ids=ids.to(self._device),
            attention_mask=mask.to(self._device),
            max_new_tokens=max(wanted),
            do_sample=False,
        )[:, width:].tolist()
        return [tokens[:n] for tokens, n in zip(new, wanted, strict=True)]


def _random_model(path: Path, dtype: torch.dtype, device: torch.device) -> torch.nn.Module:
    """Weights of transformers' own drawing: what they cost does not depend on their values. Not
    quantized: transformers makes no FP8 weights out of nothing."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(path)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    torch.manual_seed(0)
    with device:
        return AutoModelForCausalLM.from_config(config, dtype=dtype)
