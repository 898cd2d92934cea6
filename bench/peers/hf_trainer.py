"""`python -m bench.peers.hf_trainer JOB.json RESULT.json`: a plain `transformers.Trainer`, as one
would write it: rows tokenised by the chat template, padded to the longest of their batch, float32
weights under bfloat16 autocast, fused AdamW.

With `grouped` its own sampler by length makes the batches. That sorts what it draws, many steps'
worth at a time, longest first; the steps that are run are spread evenly over such a stretch.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.trainer_pt_utils import LengthGroupedSampler

from bench.peers.worker import peak_rss_bytes


def rows_of(path: Path, tokenizer: Any) -> list[dict[str, list[int]]]:
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        encoded = tokenizer.apply_chat_template(
            json.loads(line)["messages"], return_dict=True, return_assistant_tokens_mask=True
        )
        ids, learnt = encoded["input_ids"], encoded["assistant_masks"]
        labels = [i if mark else -100 for i, mark in zip(ids, learnt, strict=True)]
        rows.append({"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels})
    return rows


class Watched(Trainer):
    """Counts tokens, padding too, and takes the batches by length from where they are typical."""

    tokens = padded = stretch = 0

    def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        self.tokens += int(inputs["attention_mask"].sum())
        self.padded += inputs["attention_mask"].numel()
        return super().training_step(model, inputs, *args, **kwargs)

    def _get_train_sampler(self, *args: Any) -> Any:
        sampler = super()._get_train_sampler(*args)
        if not isinstance(sampler, LengthGroupedSampler):
            return sampler
        a_step = self.args.per_device_train_batch_size * self.args.gradient_accumulation_steps
        order = np.array(list(sampler))[: self.stretch * a_step].reshape(-1, a_step)
        timed = self.args.max_steps - 1
        places = (np.arange(timed) + 0.5) / timed * len(order)
        warm_up = len(order) // 2
        return order[[warm_up, *places.astype(int)]].flatten().tolist()


class Marks(TrainerCallback):
    """Of the end of each step: the clock, and the tokens so far."""

    def __init__(self) -> None:
        self.trainer: Watched | None = None
        self.found: list[tuple[float, int, int]] = []

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.found.append((time.perf_counter(), self.trainer.tokens, self.trainer.padded))


def run(job: dict[str, Any]) -> dict[str, Any]:
    """job: `model` (folder), `rows` (JSONL), `documents` of a micro-batch, `accumulate`, `steps`,
    `threads`, `grouped`, `stretch` (the steps that are sorted together). Seconds and tokens of each
    step but the first."""
    torch.set_num_threads(job["threads"])
    tokenizer = AutoTokenizer.from_pretrained(job["model"])
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        AutoConfig.from_pretrained(job["model"]), dtype=torch.float32
    )
    marks = Marks()
    with tempfile.TemporaryDirectory() as scratch:
        trainer = Watched(
            model=model,
            args=TrainingArguments(
                output_dir=scratch,
                max_steps=job["steps"],
                per_device_train_batch_size=job["documents"],
                gradient_accumulation_steps=job["accumulate"],
                train_sampling_strategy="group_by_length" if job["grouped"] else "random",
                bf16=True,
                optim="adamw_torch_fused",
                use_cpu=True,
                save_strategy="no",
                logging_strategy="no",
                report_to="none",
                disable_tqdm=True,
            ),
            train_dataset=rows_of(Path(job["rows"]), tokenizer),
            data_collator=DataCollatorForSeq2Seq(tokenizer),
            callbacks=[marks],
        )
        marks.trainer, trainer.stretch = trainer, job["stretch"]
        trainer.train()
    when, tokens, padded = (np.diff(column).tolist() for column in zip(*marks.found, strict=True))
    return {
        "seconds": when,
        "tokens": tokens,
        "with_padding": padded,
        "peak_rss_bytes": peak_rss_bytes(),
    }


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(run(json.loads(Path(sys.argv[1]).read_text()))))
