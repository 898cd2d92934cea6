"""`transformers` continuous batching (what `generate_batch` runs), with an output length of each
request's own, random weights."""

from __future__ import annotations

import time
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, ContinuousBatchingConfig
from transformers import GenerationConfig as Generation

NO_END = -1
"""No token ends a sequence."""


class Peer:
    """job: `config` (path of a config.json), `device`, `dtype`, and `cache` (settings of
    ContinuousBatchingConfig; none: what the library chooses). To be used as a context manager."""

    def __init__(self, job: dict[str, Any]) -> None:
        config = AutoConfig.from_pretrained(job["config"])
        torch.manual_seed(0)
        with torch.device(job["device"]):
            model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, job["dtype"]))
        generation = Generation(do_sample=False, eos_token_id=NO_END, pad_token_id=0)
        model.generation_config = generation
        self._model = model.eval()
        self._context = model.continuous_batching_context_manager(
            generation_config=generation,
            continuous_batching_config=ContinuousBatchingConfig(**job.get("cache", {})),
            block=True,
            timeout=5,
        )

    def generated(self, prompt: list[int], count: int) -> list[int]:
        """What `generate` gives for it; to be called before the context is entered."""
        ids = torch.tensor([prompt], device=self._model.device)
        mask = torch.ones_like(ids)
        found = self._model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=count)
        return found[0, len(prompt) :].tolist()

    def __enter__(self) -> Peer:
        self._manager = self._context.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._context.__exit__(*error)

    def run(self, prompts: list[list[int]], wanted: list[int], deadline: float) -> list[list[int]]:
        """`wanted[i]` greedy tokens for `prompts[i]`. Raises RuntimeError with the library's own
        error, TimeoutError at `deadline` (of time.monotonic)."""
        manager = self._manager
        asked = {
            manager.add_request(prompt, max_new_tokens=count): i
            for i, (prompt, count) in enumerate(zip(prompts, wanted, strict=True))
        }
        outputs: list[list[int]] = [[] for _ in prompts]
        missing = len(prompts)
        while missing:
            result = manager.get_result(timeout=1)
            if result is None:
                self._check(deadline, missing)
            elif result.error is not None:
                raise RuntimeError(f"a request failed: {result.error}")
            elif result.is_finished():
                outputs[asked[result.request_id]] = list(result.generated_tokens)
                missing -= 1
        return outputs

    def _check(self, deadline: float, missing: int) -> None:
        if not self._manager.is_running():
            fatal = self._manager.background_thread_status.fatal_error
            raise RuntimeError(f"its thread ended: {fatal!r}")
        if time.monotonic() > deadline:
            raise TimeoutError(f"{missing} requests had not ended in time")
