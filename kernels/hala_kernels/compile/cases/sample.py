from __future__ import annotations

from collections.abc import Iterator

import torch

from hala_kernels.compile.cases import Case, meta
from hala_kernels.sample import SamplingTensors, sample

TUNED = ("sample_scan", "sample_finish", "sample_mark")


def params(rows: int, history: int | None) -> SamplingTensors:
    def column(dtype: torch.dtype) -> torch.Tensor:
        return meta(rows, dtype=dtype)

    return SamplingTensors(
        temperature=column(torch.float32),
        top_k=column(torch.int64),
        top_p=column(torch.float32),
        min_p=column(torch.float32),
        seed=column(torch.int64),
        position=column(torch.int64),
        penalty=None if history is None else column(torch.float32),
        history=None if history is None else meta(rows, history, dtype=torch.int64),
    )


def cases(table: str, v: int = 2**20, l: int = 4096) -> Iterator[Case]:  # noqa: E741
    bf16, f32 = meta(8, v), meta(8, v, dtype=torch.float32)
    if table == "sample_mark":
        yield Case("marks", lambda: sample(bf16, params(8, l)))
        return
    yield Case("greedy", lambda: sample(bf16, None, with_logprobs=False))
    yield Case("greedy f32 logprobs", lambda: sample(f32, None))
    yield Case("draws", lambda: sample(bf16, params(8, None), with_logprobs=False))
    yield Case("draws f32 logprobs penalty", lambda: sample(f32, params(8, l)))
    yield Case("draws capped penalty", lambda: sample(bf16, params(8, l), softcap=30.0))
