"""Answers to prompts of the evaluation data, by the engine that will serve the model."""

import gc
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from hala_engine import Engine, EngineConfig, SamplingParams
from hala_trainer.errors import InputError, TrainError
from hala_trainer.log import drop_after

BATCH = 8
CACHED_TOKENS = 8192  # of all answers together: beside a model in training there is little room


def sample(
    folder: Path,
    prompts: Sequence[list[dict]],
    expected: Sequence[str],
    max_new_tokens: int,
    device: str,
    step: int,
    path: Path,
) -> dict | None:
    """Answer `prompts` (chats that end before the assistant's turn) greedily with the model in
    `folder`, and add {"step", "messages", "expected", "answer"} rows to `path`; the first of them.

    For rank 0 alone; no other rank is spoken to. An answer is null where the prompt cannot run, too
    long say. Rows of this step and later ones, which a resumed run left, are dropped. Threads and
    random states are left as they were, and the model's memory is given back. Raises TrainError
    when the engine cannot run the model beside the training, or `path` cannot be written.
    """
    try:
        with _unnoticed(device):
            answers = _answers(folder, prompts, max_new_tokens, device)
    except (InputError, torch.OutOfMemoryError) as error:
        reason = str(error).partition("\n")[0]
        raise TrainError(f"no samples of step {step}: {reason}") from error
    rows = [
        {"step": step, "messages": messages, "expected": wanted, "answer": answer}
        for messages, wanted, answer in zip(prompts, expected, answers, strict=True)
    ]
    try:
        drop_after(path, step - 1)
        with path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    except OSError as error:
        raise TrainError(f"{path}: cannot write ({error.strerror})") from error
    return rows[0] if rows else None


def _answers(
    folder: Path, prompts: Sequence[list[dict]], max_new_tokens: int, device: str
) -> list[str | None]:
    config = EngineConfig(
        device=device, max_batch_size=BATCH, max_cached_tokens=CACHED_TOKENS, prefix_caching=False
    )
    params = SamplingParams(max_new_tokens=max_new_tokens)
    outputs = Engine(folder, config=config).generate(prompts, params)
    return [None if out.finish_reason == "error" else out.text for out in outputs]


@contextmanager
def _unnoticed(device: str) -> Iterator[None]:
    """Training goes on as if the block had not been: a resumed run must give the same numbers."""
    threads = torch.get_num_threads()
    gpus = [torch.cuda.current_device()] if device == "cuda" else []
    torch.cuda.empty_cache()  # the engine takes what is free
    try:
        with torch.random.fork_rng(gpus):
            yield
    finally:
        torch.set_num_threads(threads)
        gc.collect()  # the engine's parts refer to each other
        torch.cuda.empty_cache()
