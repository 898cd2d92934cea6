"""`python -m bench.trainer`: hala-train beside a plain transformers.Trainer on the CPU.

Both train LFM2-350M's dimensions from random weights in bfloat16 with float32 masters, on the same
chat rows with as many documents in a micro-batch, in processes of their own that alternate. Rows
have mixed lengths, as chats do, or one length, where there is no padding to save. A process that
only multiplies matrices of the model's shapes runs in turn with them and gives the floor: the
products that training cannot do without (6 FLOPs a parameter and real token; of the output layer, a
token that is learnt), at the best rate seen. Tokens a second are real ones, never padding.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from bench import machine
from bench.architectures import lfm2
from bench.checkpoint import TINY, Dims
from bench.engine_cpu import BUSY
from bench.trainer_summary import OURS, TARGETS, THEIRS, print_table, summarize
from bench.training_job import mixed_lengths, read_metrics, write_model, write_recipe, write_rows
from hala_engine.benchmark.machine import versions as installed_versions

PEERS: dict[str, dict[str, Any]] = {
    "gemm": {},
    OURS: {"compile": False},
    "hala-train, compiled": {"compile": True},
    THEIRS: {"grouped": False},
    "Trainer, grouped": {"grouped": True},
}
"""What is run; "compile" marks ours, "grouped" (by length) theirs."""

STRETCH = 50
"""Steps that the Trainer's sampler by length sorts together."""


@dataclass(frozen=True)
class Plan:
    """What one invocation measures. A step: `accumulate` times `rows` rows of `seq_len` tokens, and
    for the Trainer as many documents as these hold. Of `steps`, the first warms up."""

    threads: int
    dims: Dims = field(default_factory=Dims)
    seq_len: int = 1024
    rows: int = 1
    accumulate: int = 4
    steps: int = 4
    repeats: int = 3
    median_length: int = 200
    uniform_length: int = 512
    gemm_rows: tuple[int, ...] = (512, 1024, 2048)

    def lengths(self, workload: str) -> np.ndarray:
        """Tokens of each document; enough of them for a whole stretch of steps."""
        if workload == "uniform":
            most = self.seq_len // self.uniform_length * self.rows * self.accumulate
            return np.full(most * (self.steps + 1), self.uniform_length)
        sample = mixed_lengths(10_000, self.seq_len, self.median_length)
        count = STRETCH * self.accumulate * (self.documents(sample) + 1)
        return mixed_lengths(count, self.seq_len, self.median_length)

    def documents(self, lengths: np.ndarray) -> int:
        """Of a micro-batch of the Trainer's."""
        return max(1, round(self.rows * self.seq_len / lengths.mean()))


MINIATURE = Plan(
    threads=1,
    dims=TINY,
    seq_len=64,
    steps=3,
    repeats=1,
    median_length=20,
    uniform_length=32,
    gemm_rows=(32,),
)


class Bench:
    def __init__(self, plan: Plan, peers: list[str], scratch: Path, console: Console) -> None:
        self.plan, self.peers, self.scratch, self.console = plan, peers, scratch, console
        self.samples: list[dict[str, Any]] = []
        self.failures: list[str] = []
        self.data: dict[str, dict[str, Any]] = {}

    def run(self) -> dict[str, Any]:
        facts = machine.commit()  # of the code as it is now
        self._write_inputs()
        for repeat in range(self.plan.repeats):
            order = self.peers if repeat % 2 == 0 else self.peers[::-1]
            for workload in TARGETS:
                for peer in order:
                    if peer == "gemm" and workload != "mixed":
                        continue
                    if PEERS[peer].get("grouped") and workload == "uniform":
                        continue  # of one length: nothing to group
                    self._sample(peer, workload, repeat)
        return {
            "bench": "trainer",
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "device": machine.cpu(),
            "versions": machine.versions() | installed_versions(("accelerate",)),
            **facts,
            "plan": asdict(self.plan),
            "workloads": self.data,
            "samples": self.samples,
            "failures": self.failures,
            "summary": summarize(self.samples, self.data, self.plan.dims),
        }

    def _write_inputs(self) -> None:
        write_model(self.scratch / "model", lfm2(self.plan.dims), self.plan.dims.vocab)
        for workload in TARGETS:
            lengths = self.plan.lengths(workload)
            rows = self.scratch / f"{workload}.jsonl"
            learnt = write_rows(rows, lengths, self.plan.dims.vocab)
            self.data[workload] = {
                "documents": len(lengths),
                "tokens": int(lengths.sum()),
                "learnt_tokens": learnt,
                "longest": int(lengths.max()),
                "documents_of_a_micro_batch": self.plan.documents(lengths),
            }

    def _sample(self, peer: str, workload: str, repeat: int) -> None:
        load = machine.ForeignLoad()
        try:
            with tempfile.TemporaryDirectory(dir=self.scratch) as folder:
                found = self._run(peer, workload, Path(folder))
        except subprocess.CalledProcessError as error:
            lines = error.stderr.strip().splitlines()
            self.failures.append(f"{peer}, {workload}: {lines[-1] if lines else error}")
            self.console.print(self.failures[-1], style="red", highlight=False)
            return
        foreign = load.share()
        sample = {"peer": peer, "workload": workload, "repeat": repeat, "foreign_load": foreign}
        self.samples.append(sample | found)
        if "tokens" in found:
            rate = sum(found["tokens"]) / sum(found["seconds"])
            self.console.print(f"{workload} {repeat} {peer}: {rate:.0f} tokens/s", highlight=False)
        if foreign is not None and foreign > BUSY:
            self.console.print(
                f"  not a fair timing: other work took {foreign:.0%} of the processors",
                style="yellow",
                highlight=False,
            )

    def _run(self, peer: str, workload: str, folder: Path) -> dict[str, Any]:
        """One process; raises CalledProcessError when it fails."""
        plan, settings = self.plan, PEERS[peer]
        if "compile" in settings:
            recipe = self._recipe(folder, workload, settings["compile"])
            self._process("hala_trainer", str(recipe))
            return read_metrics(folder / "out" / "metrics.jsonl")
        job: dict[str, Any] = {"threads": plan.threads}
        if peer == "gemm":
            job |= {"peer": "gemm", "rows": plan.gemm_rows, "dims": asdict(plan.dims)}
        else:
            job |= settings | {
                "model": str(self.scratch / "model"),
                "rows": str(self.scratch / f"{workload}.jsonl"),
                "documents": self.data[workload]["documents_of_a_micro_batch"],
                "accumulate": plan.accumulate,
                "steps": plan.steps,
                "stretch": STRETCH,
            }
        module = "bench.peers.worker" if peer == "gemm" else "bench.peers.hf_trainer"
        job_file, result_file = folder / "job.json", folder / "result.json"
        job_file.write_text(json.dumps(job))
        self._process(module, str(job_file), str(result_file))
        return json.loads(result_file.read_text())

    def _recipe(self, folder: Path, workload: str, compiled: bool) -> Path:
        plan = self.plan
        sections = {
            "model": {"path": str(self.scratch / "model"), "init": "random"},
            "data": {
                "train": [str(self.scratch / f"{workload}.jsonl")],
                "seq_len": plan.seq_len,
            },
            "train": {
                "out": str(folder / "out"),
                "steps": plan.steps,
                "global_batch": plan.rows * plan.accumulate,
                "micro_batch": plan.rows,
                "compile": compiled,
                "device": "cpu",
                "threads": plan.threads,
            },
            "checkpoint": {"asynchronous": False},
            "log": {"every": 1, "eval_every": 0, "tensorboard": False},
        }
        return write_recipe(folder / "recipe.toml", sections)

    def _process(self, module: str, *arguments: str) -> None:
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(self.plan.threads),
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_VERBOSITY": "error",
        }
        command = [sys.executable, "-m", module, *arguments]
        subprocess.run(command, env=environment, check=True, capture_output=True, text=True)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.trainer", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the full result here")
    parser.add_argument("--peers", default=";".join(PEERS), help="default: %(default)s")
    parser.add_argument("--repeats", type=int, help="default 3")
    parser.add_argument("--steps", type=int, help="of each process, the first apart (default 4)")
    parser.add_argument("--layers", type=int, help="only the first of the model's 16")
    parser.add_argument("--threads", type=int, default=machine.usable_cores())
    parser.add_argument("--tiny", action="store_true", help="a toy model, to try the benchmark")
    options = parser.parse_args(arguments)
    peers = options.peers.split(";")
    if unknown := set(peers) - set(PEERS):
        parser.error(f"unknown peer {', '.join(sorted(unknown))}; known: {'; '.join(PEERS)}")
    console = Console(stderr=True)
    if find_spec("accelerate") is None and any("grouped" in PEERS[p] for p in peers):
        peers = [p for p in peers if "grouped" not in PEERS[p]]
        console.print("Trainer left out: accelerate is not installed (pip install -e '.[bench]')")
    plan = MINIATURE if options.tiny else Plan(threads=options.threads)
    given = {k: v for k in ("repeats", "steps") if (v := getattr(options, k)) is not None}
    plan = replace(plan, **given)
    if options.layers:
        dims = plan.dims
        kept = tuple(i for i in dims.attention_layers if i < options.layers)
        dims = replace(dims, layers=options.layers, attention_layers=kept)
        plan = replace(plan, dims=dims)
    with tempfile.TemporaryDirectory() as scratch:
        result = Bench(plan, peers, Path(scratch), console).run()
    print_table(result["summary"], Console())
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    return 1 if result["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
