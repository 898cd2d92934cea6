"""`transformers` generate: batches in arrival order, padded on the left to their longest prompt."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from hala_engine.benchmark.baseline import Baseline


class Peer:
    def __init__(self, job: dict[str, Any]) -> None:
        torch.set_num_threads(job["threads"])
        self.baseline = Baseline(
            Path(job["checkpoint"]),
            random_weights=False,
            dtype=getattr(torch, job.get("dtype", "bfloat16")),
            device=torch.device("cpu"),
        )

    def run(self, prompts: list[list[int]], wanted: list[int], batch: int) -> list[list[int]]:
        return self.baseline.generate(prompts, wanted, batch)

    @torch.inference_mode()
    def logits(self, ids: list[int]) -> np.ndarray:
        return self.baseline.model(torch.tensor([ids])).logits[0].float().numpy()
