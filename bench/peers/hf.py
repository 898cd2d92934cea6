"""`transformers` generate: batches in arrival order, padded on the left to their longest prompt."""

from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM

PAD = 0


class Peer:
    def __init__(self, job: dict[str, Any]) -> None:
        torch.set_num_threads(job["threads"])
        dtype = getattr(torch, job.get("dtype", "bfloat16"))
        self.model = AutoModelForCausalLM.from_pretrained(job["checkpoint"], dtype=dtype).eval()
        # Without an end token generate() stops by length alone, and needs no logits processor.
        self.model.generation_config.eos_token_id = None
        self.model.generation_config.pad_token_id = PAD

    def run(self, prompts: list[list[int]], wanted: list[int], batch: int) -> list[list[int]]:
        outputs: list[list[int]] = []
        for i in range(0, len(prompts), batch):
            window = slice(i, i + batch)
            outputs += self._generate(prompts[window], wanted[window])
        return outputs

    def _generate(self, prompts: list[list[int]], wanted: list[int]) -> list[list[int]]:
        width = max(map(len, prompts))
        ids = torch.full((len(prompts), width), PAD)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            mask[row, width - len(prompt) :] = 1
        new = self.model.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=max(wanted), do_sample=False
        )[:, width:].tolist()
        return [tokens[:n] for tokens, n in zip(new, wanted, strict=True)]

    @torch.inference_mode()
    def logits(self, ids: list[int]) -> np.ndarray:
        return self.model(torch.tensor([ids])).logits[0].float().numpy()
