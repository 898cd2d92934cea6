"""A plain training loop over `transformers`, as one would write it: float32 weights under bfloat16
autocast, batches padded to their longest document, fused AdamW. It needs nothing but torch and
transformers."""

from __future__ import annotations

import gc
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from bench.training_job import write_config

IGNORED = -100


class HfLoop:
    def __init__(self, raw: dict[str, Any], device: str) -> None:
        self.device, self.vocabulary = device, raw["vocab_size"]
        torch.manual_seed(0)
        with tempfile.TemporaryDirectory() as folder, torch.device(device):
            config = AutoConfig.from_pretrained(write_config(Path(folder), raw))
            self.model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        self.model.train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-5, fused=True)

    def step(self, lengths: np.ndarray, seed: int) -> float:
        """Seconds of a step over documents of `lengths`, int [micro-batches, documents]."""
        batches = [self._batch(row, seed) for row in lengths]
        self._wait()
        begin = time.perf_counter()
        learnt = sum(int((batch["labels"] != IGNORED).sum()) for batch in batches)
        for batch in batches:
            on_device = {key: value.to(self.device) for key, value in batch.items()}
            with torch.autocast(self.device, torch.bfloat16):
                loss = self.model(**on_device, use_cache=False, num_items_in_batch=learnt).loss
            loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self._wait()
        return time.perf_counter() - begin

    def _batch(self, lengths: np.ndarray, seed: int) -> dict[str, torch.Tensor]:
        """Random tokens; the latter part of each document is learnt, as in `write_rows`."""
        rng = np.random.default_rng(seed)
        places = np.arange(lengths.max())
        real = places < lengths[:, None]
        ids = np.where(real, rng.integers(0, self.vocabulary, real.shape), 0)
        answers = (rng.uniform(0.3, 0.8, len(lengths)) * lengths).astype(int)
        learnt = real & (places >= (lengths - answers)[:, None])
        columns = {
            "input_ids": ids,
            "attention_mask": real.astype(np.int64),
            "labels": np.where(learnt, ids, IGNORED),
        }
        return {key: torch.from_numpy(value) for key, value in columns.items()}

    def clear(self) -> None:
        """After a step that ran out of memory."""
        self.optimizer.zero_grad()
        gc.collect()
        if self.device == "cuda":
            torch.cuda.empty_cache()

    def _wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()
