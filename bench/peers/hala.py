"""Our engine, through its public interface."""

from typing import Any

from hala_engine import Engine, EngineConfig, SamplingParams


class Peer:
    def __init__(self, job: dict[str, Any]) -> None:
        import torch

        torch.set_num_threads(job["threads"])
        limits = {key: job[key] for key in ("max_batch_size", "max_cached_tokens", "max_model_len")}
        config = EngineConfig(device="cpu", dtype="bfloat16", **limits)
        self.engine = Engine(job["checkpoint"], config=config)
        self.notes = limits

    def run(self, prompts: list[list[int]], wanted: list[int], batch: int) -> list[list[int]]:
        # How many run at a time is the scheduler's choice, up to its configured limit.
        params = [SamplingParams(max_new_tokens=n, ignore_eos=True) for n in wanted]
        outputs = self.engine.generate(prompts, params)
        return [list(output.token_ids) for output in outputs]
