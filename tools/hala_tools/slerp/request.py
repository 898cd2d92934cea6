"""What a user asks for, by flags or by a merge file, checked for its form alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hala_tools.slerp.factor import Slice

Side = Literal["base", "tuned"]

FLOATS = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
"""Name of a dtype in configurations -> safetensors' name of it."""


@dataclass(frozen=True)
class Request:
    """`base` and `tuned`: local directories or hub ids, `ID@REVISION` for a revision.

    `slices` cover the layers in order. `dtype`: of the result, a key of FLOATS (None: what holds
    both models'). `rounded_to`: what a merge file calls `dtype`; MergeKit rounds what it reads to
    that, and what it computes before it rounds that to the result's, and so do we under `parity`.
    `tokenizer_source`: whose tokenizer and vocabulary the result has (None: the base's, and the
    vocabularies must agree in size).
    """

    base: str
    tuned: str
    slices: tuple[Slice, ...]
    dtype: str | None = None
    rounded_to: str | None = None
    tokenizer_source: Side | None = None
    parity: bool = False
    shard_bytes: int = 5_000_000_000
