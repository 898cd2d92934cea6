"""The floor: the model's matrix products alone, through torch, on weights of the same shapes."""

import time
from typing import Any

import torch
import torch.nn.functional as F

from bench.checkpoint import Dims


class Peer:
    def __init__(self, job: dict[str, Any]) -> None:
        torch.set_num_threads(job["threads"])
        self.dims = Dims(
            **{**job["dims"], "attention_layers": tuple(job["dims"]["attention_layers"])}
        )
        # All layers have weights of their own, so that a pass streams as many bytes as the model.
        shapes = [s for i in range(self.dims.layers) for s in self.dims.layer_linears(i)]
        self.weights = [torch.randn(shape, dtype=torch.bfloat16) * 0.02 for shape in shapes]
        self.head = torch.randn(self.dims.vocab, self.dims.hidden, dtype=torch.bfloat16) * 0.02

    @torch.inference_mode()
    def measure(self, rows: list[int]) -> dict[str, dict[str, float]]:
        """For each row count: seconds of all layers' GEMMs and of the output projection's."""
        widths = {self.dims.hidden, self.dims.ff}
        result = {}
        for count in rows:
            inputs = {k: torch.randn(count, k, dtype=torch.bfloat16) for k in widths}
            body = min(self._time_body(inputs) for _ in range(4))
            head = min(self._time_head(inputs[self.dims.hidden]) for _ in range(4))
            flops = count * (self.dims.body_flops() + self.dims.head_flops())
            rate = flops / (body + head)
            result[str(count)] = {"body_s": body, "head_s": head, "flops_per_s": rate}
        return result

    def _time_body(self, inputs: dict[int, torch.Tensor]) -> float:
        start = time.perf_counter()
        for weight in self.weights:
            F.linear(inputs[weight.shape[1]], weight)
        return time.perf_counter() - start

    def _time_head(self, hidden: torch.Tensor) -> float:
        start = time.perf_counter()
        F.linear(hidden, self.head)
        return time.perf_counter() - start
