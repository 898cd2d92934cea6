"""`python -m bench.trl_curve`: does hala-train draw the same loss curve as TRL's SFTTrainer?

Small models, trained from the same weights on the same chat rows: ours packed and unpacked, TRL's
on padded batches of the very documents of each of our steps. TRL renders the rows, tokenises them
and marks the assistant's tokens by itself; that its ids and marks are ours is checked first.
Hyper-parameters are the same, with two things that TRL cannot be told by a flag: it decays matrices
alone as we do (its own rule also decays the convolution's filters), and its warm-up, which would
begin at a rate of 0, begins a step later.

`--golden DIR` writes the rows and TRL's curves for tests/trainer/test_trl_golden.py, which runs
ours against them without TRL.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from bench import machine
from bench.small_runs import (
    HYPER,
    MODELS,
    PACKINGS,
    STEPS,
    Curve,
    curve_of,
    difference,
    our_curve,
    write_model,
    write_rows,
    write_run,
)
from hala_engine.benchmark.machine import versions as installed_versions

LIMIT = 0.01
"""The largest relative difference of a step's loss that counts as the same curve."""

Document = tuple[tuple[int, ...], tuple[bool, ...]]
"""Token ids, and which of them are learnt."""


def our_steps(recipe_file: Path) -> list[list[Document]]:
    """The documents of each step of a run on one process."""
    from hala_trainer.data.documents import load_corpus
    from hala_trainer.data.order import PackedRows
    from hala_trainer.model.loading import load_tokenizer
    from hala_trainer.recipe import load_recipe

    recipe = load_recipe(recipe_file, [])
    data, train = recipe.data, recipe.train
    tokenizer = load_tokenizer(Path(recipe.model.path))
    corpus = load_corpus(data.train, tokenizer, data, recipe.out / "cache")
    rows = PackedRows(corpus, [], data.seq_len, 0, data.seed, data.packing)
    steps = []
    for _ in range(train.steps):
        batches = rows.next_step(train.global_batch, train.micro_batch, rank=0, world=1)
        steps.append([document for batch in batches for document in _documents(batch)])
    return steps


def _documents(batch: Any) -> list[Document]:
    found = []
    for ids, numbers, marks in zip(batch.ids, batch.documents, batch.supervised, strict=True):
        cuts = np.flatnonzero(np.diff(numbers)) + 1
        for piece in np.split(np.arange(len(ids)), cuts):
            if marks[piece].any():  # padding is a document too
                found.append(_learnt(ids[piece].tolist(), marks[piece].tolist()))
    return found


def _learnt(ids: list[int], marks: list[bool]) -> Document:
    """Without what follows the last learnt token: TRL keeps a template's closing line break."""
    end = max(i for i, mark in enumerate(marks) if mark) + 1
    return tuple(ids[:end]), tuple(marks[:end])


def their_curve(model: Path, rows: Path, steps: list[list[Document]], scratch: Path) -> Curve:
    """Of SFTTrainer, on padded batches of the documents of `steps`. Raises SystemExit when its
    tokens or marks of a document are not ours."""
    import torch
    from datasets import load_dataset
    from torch.utils.data import DataLoader
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    class Trainer(SFTTrainer):
        """Our steps as its batches, decay on matrices alone, warm-up from its first step."""

        def get_train_dataloader(self) -> DataLoader:
            known = {
                _learnt(row["input_ids"], [label >= 0 for label in row["labels"]]): place
                for place, row in enumerate(self.train_dataset)
            }
            missing = {document for step in steps for document in step} - known.keys()
            if missing:
                raise SystemExit(f"TRL reads {len(missing)} documents otherwise than we do")
            batches = [[known[document] for document in step] for step in steps]
            return DataLoader(
                self.train_dataset, batch_sampler=batches, collate_fn=self.data_collator
            )

        def get_decay_parameter_names(self, model: torch.nn.Module) -> list[str]:
            return [name for name, p in model.named_parameters() if p.ndim == 2]

        def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
            scheduler = super().create_scheduler(num_training_steps, optimizer)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that the optimizer has not stepped yet
                scheduler.step()
            return scheduler

    torch.set_num_threads(1)
    trainer = Trainer(
        model=AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32),
        args=SFTConfig(
            output_dir=str(scratch),
            max_steps=STEPS,
            learning_rate=HYPER["lr"],
            lr_scheduler_type="cosine",
            warmup_steps=HYPER["warmup_steps"],
            adam_beta1=HYPER["betas"][0],
            adam_beta2=HYPER["betas"][1],
            adam_epsilon=1e-8,
            weight_decay=HYPER["weight_decay"],
            max_grad_norm=HYPER["clip"],
            assistant_only_loss=True,
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=True,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=load_dataset(
            "json", data_files=str(rows), split="train", cache_dir=str(scratch / "cache")
        ),
        processing_class=AutoTokenizer.from_pretrained(model),
    )
    trainer.train()
    return curve_of([line for line in trainer.state.log_history if "loss" in line])


def compare(model: Path, rows: Path, packing: str, scratch: Path) -> dict[str, Any]:
    recipe = write_run(scratch / "recipe.toml", model, rows, packing, scratch / "out")
    command = [sys.executable, "-m", "hala_trainer", str(recipe)]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    ours = our_curve(scratch / "out")
    steps = our_steps(recipe)
    theirs = their_curve(model, rows, steps, scratch / "trl")
    return {
        "documents_of_each_step": [len(step) for step in steps],
        "ours": ours,
        "trl": theirs,
        "largest_difference": difference(ours, theirs),
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.trl_curve", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the full result here")
    parser.add_argument("--golden", type=Path, metavar="DIR", help="write what the test needs")
    options = parser.parse_args(arguments)
    facts = {
        "bench": "trl_curve",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": machine.cpu(),
        "versions": machine.versions() | installed_versions(("trl", "accelerate", "datasets")),
        **machine.commit(),
    }
    runs: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        rows = scratch / "rows.jsonl"
        write_rows(rows)
        for name in MODELS:
            model = write_model(scratch / name, name)
            for packing in PACKINGS:
                place = scratch / f"{name}-{packing}"
                place.mkdir()
                runs[f"{name}, {packing}"] = compare(model, rows, packing, place)
        if options.golden:
            options.golden.mkdir(parents=True, exist_ok=True)
            shutil.copy(rows, options.golden / "trl_chat.jsonl")
            curves = {name: {"trl": run["trl"]} for name, run in runs.items()}
            _write(options.golden / "trl_curve.json", facts | {"runs": curves})
    if options.json:
        _write(options.json, facts | {"limit": LIMIT, "runs": runs})
    return _report(runs)


def _write(path: Path, result: dict[str, Any]) -> None:
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"wrote {path}", file=sys.stderr)


def _report(runs: dict[str, dict[str, Any]]) -> int:
    table = Table(title=f"largest difference from TRL over {STEPS} steps")
    for heading in ("", "loss", "gradient norm", "loss, first and last"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, run in runs.items():
        loss, norm = (run["largest_difference"][key] for key in ("loss", "grad_norm"))
        ends = f"{run['ours']['loss'][0]:.3f} .. {run['ours']['loss'][-1]:.3f}"
        table.add_row(name, f"{loss:.1e}", f"{norm:.1e}", ends)
    Console().print(table)
    return int(any(run["largest_difference"]["loss"] > LIMIT for run in runs.values()))


if __name__ == "__main__":
    sys.exit(main())
