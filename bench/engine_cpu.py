"""`python -m bench.engine_cpu`: our engine beside transformers and llama.cpp on the CPU.

Every peer runs the same random bf16 weights of LFM2-350M's dimensions, greedily, with forced
lengths, in processes of its own that alternate, so that a change in the machine's speed meets all
of them. A process that only multiplies matrices of the model's shapes runs in turn with them and
gives the floor. A peer that is not installed is named and left out.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from bench import machine
from bench.checkpoint import TINY, Dims, ensure, ensure_gguf
from bench.summary import print_tables, summarize
from bench.workload import FIRST_ORDINARY_ID, Workload, mixed, uniform

MODELS = {"lfm2-350m": Dims(), "tiny": TINY}
REQUIRES = {
    "gemm": ("torch",),
    "transformers": ("transformers",),
    "hala": ("hala_engine.engine",),
    "llama.cpp": ("llama_cpp", "gguf"),
}
# Sequences that ours may run at once in the mixed workload; how many do, its cache decides.
MIXED_SLOTS = 64
# Above this share of the processors, work beside the benchmark makes its timings doubtful.
BUSY = 0.03


@dataclass(frozen=True)
class Plan:
    """What one invocation measures."""

    model: str
    peers: tuple[str, ...]
    threads: int
    batches: tuple[int, ...] = (1, 8, 32)
    prompt: int = 64
    output: int = 32
    repeats: int = 5
    mixed_requests: int = 256
    mixed_repeats: int = 3
    gemm_rows: tuple[int, ...] = (1, 8, 32, 64, 128, 256, 512)
    process_timeout_s: int = 3600

    def uniform_workloads(self, seed: int) -> list[Workload]:
        widest = max(self.batches)
        decode = [uniform(b, self.prompt, self.output, seed) for b in self.batches]
        return [*decode, uniform(widest, self.prompt, 1, seed)]

    def mixed_workload(self, seed: int) -> Workload:
        return mixed(self.mixed_requests, batch=min(32, self.mixed_requests), seed=seed)


class Bench:
    def __init__(self, plan: Plan, cache: Path, console: Console) -> None:
        self.plan = plan
        self.console = console
        self.dims = MODELS[plan.model]
        self.directory = ensure(cache / plan.model, self.dims).resolve()
        self.samples: list[dict[str, Any]] = []
        self.failures: list[str] = []
        self.commit = machine.commit()
        # Equal memory: our cache holds as many tokens as the widest padded batch does.
        self.mixed_tokens = plan.mixed_workload(0).padded_tokens()

    def run(self) -> dict[str, Any]:
        if "llama.cpp" in self.plan.peers:
            ensure_gguf(self.directory, self.dims)
        check = self._check_logits()
        widest = max(self.plan.batches)
        for repeat in range(self.plan.repeats):
            self._round("uniform", repeat, self.plan.uniform_workloads(repeat), widest)
        for repeat in range(self.plan.mixed_repeats):
            workload = self.plan.mixed_workload(repeat)
            self._round("mixed", repeat, [workload], MIXED_SLOTS, self.mixed_tokens)
        slots = [(w, w.batch) for w in self.plan.uniform_workloads(0)]
        if self.plan.mixed_repeats:
            slots.append((self.plan.mixed_workload(0), MIXED_SLOTS))
        return {
            "bench": "engine_cpu",
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "device": machine.cpu(),
            "versions": machine.versions(),
            **self.commit,
            "plan": asdict(self.plan),
            "dims": asdict(self.dims),
            "workloads": [{**w.to_dict(), "slots": n} for w, n in slots],
            "logits_check": check,
            "samples": self.samples,
            "failures": self.failures,
            "summary": summarize(self.samples, slots, self.dims),
        }

    def _round(
        self,
        kind: str,
        repeat: int,
        workloads: list[Workload],
        slots: int,
        cached_tokens: int | None = None,
    ) -> None:
        """Each peer once, in an order that turns round from one repeat to the next."""
        order = self.plan.peers if repeat % 2 == 0 else self.plan.peers[::-1]
        for peer in order:
            if peer == "gemm" and kind == "mixed":
                continue  # measured with the uniform workloads
            if peer == "llama.cpp" and kind == "mixed" and repeat:
                continue  # once: it takes about ten minutes
            job: dict[str, Any] = {"peer": peer}
            if peer == "gemm":
                job |= {"rows": self.plan.gemm_rows, "dims": asdict(self.dims)}
            else:
                job["workloads"] = [w.to_dict() for w in workloads]
                job["warmup_batch"] = min(8, slots)
                job["max_batch_size"] = slots
                job["max_cached_tokens"] = cached_tokens
                job["max_model_len"] = max(w.longest() for w in workloads)
            load = machine.ForeignLoad()
            result = self._process(job)
            if result is None:
                continue
            foreign = load.share()
            self.samples.append({**result, "kind": kind, "repeat": repeat, "foreign_load": foreign})
            runs = result.get("runs", {}).items()
            times = [f"{name} {run['seconds']:.2f} s" for name, run in runs]
            times += [f"{r} rows {t['body_s']:.3f} s" for r, t in result.get("gemm", {}).items()]
            self.console.print(f"{kind} {repeat} {peer}: {', '.join(times)}", highlight=False)
            if foreign is not None and foreign > BUSY:
                self.console.print(
                    f"  not a fair timing: other work took {foreign:.0%} of the processors",
                    style="yellow",
                    highlight=False,
                )

    def _process(self, job: dict[str, Any]) -> dict[str, Any] | None:
        """Run one worker process; None, and a line in `failures`, when it fails."""
        job = {
            "checkpoint": str(self.directory),
            "gguf": str(self.directory / "model.gguf"),
            "threads": self.plan.threads,
            "vocab": self.dims.vocab,
            **job,
        }
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(self.plan.threads),
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_VERBOSITY": "error",
        }
        with tempfile.TemporaryDirectory() as scratch:
            job_file, result_file = Path(scratch) / "job.json", Path(scratch) / "result.json"
            job_file.write_text(json.dumps(job))
            command = [sys.executable, "-m", "bench.peers.worker", job_file, result_file]
            try:
                done = subprocess.run(
                    command,
                    env=environment,
                    capture_output=True,
                    text=True,
                    errors="replace",
                    timeout=self.plan.process_timeout_s,
                )
            except subprocess.TimeoutExpired:
                return self._fail(job["peer"], f"no result in {self.plan.process_timeout_s} s")
            if done.returncode != 0:
                lines = done.stderr.strip().splitlines()
                return self._fail(job["peer"], lines[-1] if lines else f"exit {done.returncode}")
            return json.loads(result_file.read_text())

    def _fail(self, peer: str, reason: str) -> None:
        self.failures.append(f"{peer}: {reason}")
        self.console.print(f"{peer} failed: {reason}", style="red", highlight=False)

    def _check_logits(self) -> dict[str, float] | None:
        """Largest difference of llama.cpp's logits from float32 ones, beside bf16 transformers'.

        bf16 transformers is the yardstick for what rounding alone does to these weights.
        """
        if not {"llama.cpp", "transformers"} <= set(self.plan.peers):
            return None
        rng = np.random.default_rng(0)
        ids = rng.integers(FIRST_ORDINARY_ID, self.dims.vocab, 24).tolist()
        with tempfile.TemporaryDirectory() as scratch:

            def logits(peer: str, dtype: str) -> np.ndarray | None:
                file = str(Path(scratch) / f"{peer}-{dtype}.npy")
                job = {"peer": peer, "dtype": dtype, "logits_of": ids, "logits_file": file}
                return None if self._process(job) is None else np.load(file)

            exact = logits("transformers", "float32")
            rounded = logits("transformers", "bfloat16")
            theirs = logits("llama.cpp", "bfloat16")
        if exact is None or rounded is None or theirs is None:
            return None
        check = {
            "logits_std": float(exact.std()),
            "llama_cpp_max_difference": float(abs(theirs - exact).max()),
            "transformers_bf16_max_difference": float(abs(rounded - exact).max()),
        }
        self.console.print(
            f"logits against float32 (std {check['logits_std']:.3f}): llama.cpp differs by at most "
            f"{check['llama_cpp_max_difference']:.4f}, transformers in bf16 by at most "
            f"{check['transformers_bf16_max_difference']:.4f}",
            highlight=False,
        )
        limit = 2 * check["transformers_bf16_max_difference"]
        if check["llama_cpp_max_difference"] > limit:
            raise SystemExit("llama.cpp does not run the same model: its logits differ too much")
        return check


def installed(peers: tuple[str, ...], console: Console) -> tuple[str, ...]:
    present = []
    for peer in peers:
        missing = [module for module in REQUIRES[peer] if find_spec(module) is None]
        if missing:
            console.print(
                f"{peer} left out: {', '.join(missing)} not installed (pip install -e '.[bench]')",
                highlight=False,
            )
        else:
            present.append(peer)
    return tuple(present)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.engine_cpu", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the full result here")
    parser.add_argument("--quick", action="store_true", help="one short repeat, for a look")
    parser.add_argument("--model", choices=MODELS, default="lfm2-350m")
    parser.add_argument("--peers", default=",".join(REQUIRES), help="default: %(default)s")
    parser.add_argument("--repeats", type=int, help="of the uniform workloads (default 5)")
    parser.add_argument("--mixed-repeats", type=int, help="of the mixed one (default 3; 0: none)")
    parser.add_argument("--mixed-requests", type=int, help="default 256")
    parser.add_argument("--threads", type=int, default=machine.usable_cores())
    parser.add_argument("--cache-dir", type=Path, default=Path("runs/bench"))
    options = parser.parse_args(arguments)
    peers = tuple(options.peers.split(","))
    if unknown := set(peers) - set(REQUIRES):
        parser.error(f"unknown peer {', '.join(sorted(unknown))}; known: {', '.join(REQUIRES)}")

    console = Console(stderr=True)
    plan = Plan(options.model, installed(peers, console), options.threads)
    if options.quick:
        plan = replace(
            plan, repeats=1, mixed_repeats=1, mixed_requests=48, gemm_rows=(1, 8, 32, 512)
        )
    given = ("repeats", "mixed_repeats", "mixed_requests")
    plan = replace(plan, **{k: v for k in given if (v := getattr(options, k)) is not None})
    result = Bench(plan, options.cache_dir, console).run()
    print_tables(result["summary"], Console())
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    return 1 if result["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
