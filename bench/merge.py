"""`python -m bench.merge`: speed and memory of `hala-slerp`, beside MergeKit and `cp`.

Two random LFM2-1.2B checkpoints, bf16 and 2.3 GB each, are merged by MergeKit and by hala-slerp,
each as a whole process, in turn with a plain `cp` of one of them. "cold" rounds begin with the
sources out of the page cache, "warm" ones with them in it.

hala-slerp ends with its result on the disk, the others with theirs in the page cache. So the time
that a sync of the result then takes is measured for each, and speeds are compared both ways: "as
is", from start to end of the process, and "on disk", with that sync.

The floor is 1.5 times the time of the copy: a merge reads two checkpoints and writes one, a copy
reads one and writes one, and what is counted is bytes at the copy's speed.

Peak memory is the process's own (anonymous), since mapped files cost nothing that the page cache
does not give back; the total that was resident stands beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from bench import machine, merge_pair
from bench.merge_parity import versions as mergekit_versions
from bench.processes import run_measured, set_cache
from tests.tools.slerp.layouts import small_dims

PEERS = ("copy", "mergekit", "hala")
CACHES = ("cold", "warm")
WAYS = {"as_is": ("seconds",), "on_disk": ("seconds", "sync_seconds")}
"""What is compared -> the parts of a sample that make it up."""

PEAKS = ("anonymous_bytes", "file_bytes", "max_rss_bytes")

T = 0.5
FLOOR_OVER_COPY = 1.5

REQUIRED_SPEEDUP = 6.0
REQUIRED_SHARE = 0.5
ALLOWED_BYTES = 1 << 30
"""Targets: so many times MergeKit's speed; at most twice the floor; so much memory."""

Sample = dict[str, Any]


def commands(directory: Path, mergekit: str) -> dict[str, list[str]]:
    """By peer. `directory` has base and tuned; results go to result."""
    base, tuned, target = (str(directory / name) for name in ("base", "tuned", "result"))
    config = {
        "models": [{"model": base}, {"model": tuned}],
        "merge_method": "slerp",
        "base_model": base,
        "parameters": {"t": T},
        "dtype": "bfloat16",
    }
    merge_file = directory / "merge.yml"
    merge_file.write_text(yaml.safe_dump(config))
    theirs = [mergekit, "-m", "mergekit.scripts.run_yaml", str(merge_file), target]
    return {
        "copy": ["cp", "-r", "--reflink=never", base, target],
        "mergekit": ["env", "HF_HUB_OFFLINE=1", *theirs, "--no-write-model-card", "--quiet"],
        "hala": [sys.executable, "-m", "hala_tools.slerp", base, tuned, target, "--t", str(T)],
    }


def warm_up(peers: list[str], mergekit: str) -> None:
    """Has the programs themselves in the page cache, also in cold rounds."""
    loads = {
        "mergekit": [mergekit, "-c", "import mergekit.scripts.run_yaml"],
        "hala": [sys.executable, "-m", "hala_tools.slerp", "--help"],
    }
    for peer in peers:
        if peer in loads:
            subprocess.run(loads[peer], check=True, capture_output=True)


def measure(
    directory: Path, peers: list[str], repeats: int, mergekit: str, console: Console
) -> list[Sample]:
    """Samples in an order that turns round between repeats."""
    by_peer = commands(directory, mergekit)
    target, samples = directory / "result", []
    warm_up(peers, mergekit)
    for repeat in range(repeats):
        for cache in CACHES:
            for what in peers if repeat % 2 == 0 else peers[::-1]:
                shutil.rmtree(target, ignore_errors=True)
                settle(directory)
                for source in ("base", "tuned"):
                    set_cache(directory / source, warm=cache == "warm")
                load = machine.ForeignLoad()
                measured = run_measured(by_peer[what])
                foreign = load.share()
                measured["sync_seconds"] = sync(target)
                measured["result_bytes"] = weight_bytes(target)
                row = {"what": what, "cache": cache, "repeat": repeat, "foreign_load": foreign}
                samples.append(row | measured)
                console.print(
                    f"{cache} {repeat} {what}: {measured['seconds']:.2f} s and "
                    f"{measured['sync_seconds']:.2f} s until on the disk "
                    f"({measured['cpu_seconds']:.1f} s of processors), "
                    f"{measured['anonymous_bytes'] / 1e9:.2f} GB of its own",
                    highlight=False,
                    soft_wrap=True,
                )
    shutil.rmtree(target, ignore_errors=True)
    return samples


def settle(directory: Path) -> None:
    """Has the disk done with what was removed there, which else falls to who syncs next."""
    descriptor = os.open(directory, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def sync(directory: Path) -> float:
    """Seconds until what `directory` holds is on the disk."""
    begin = time.perf_counter()
    for path in (*directory.iterdir(), directory):
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    return time.perf_counter() - begin


def weight_bytes(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.glob("*.safetensors"))


def summarize(samples: list[Sample]) -> dict[str, Any]:
    """By state of the page cache: quartiles of each peer, ratios of medians, targets met.

    A ratio to a peer that was not measured is None, and so is what follows from it.
    """
    caches = {}
    for cache in CACHES:
        peers = {
            what: _peer([s for s in samples if (s["what"], s["cache"]) == (what, cache)])
            for what in PEERS
            if any(s["what"] == what for s in samples)
        }
        caches[cache] = {"peers": peers, **{way: _compared(peers, way) for way in WAYS}}
    memory = _memory([s for s in samples if s["what"] == "hala"])
    verdicts = [caches[cache][way]["met"] for cache in CACHES for way in WAYS]
    every = [met for verdict in verdicts for met in verdict.values()] + [memory["met"]]
    return {**caches, "memory": memory, "met": all(met for met in every if met is not None)}


def _peer(samples: list[Sample]) -> dict[str, Any]:
    spreads = {
        way: _quartiles([sum(s[part] for part in parts) for s in samples])
        for way, parts in WAYS.items()
    }
    spreads["cpu_seconds"] = _quartiles([s["cpu_seconds"] for s in samples])
    return spreads | {key: max(s[key] for s in samples) for key in PEAKS}


def _quartiles(values: list[float]) -> dict[str, float]:
    if len(values) == 1:
        values = values * 2
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": median, "q1": low, "q3": high}


def _compared(peers: dict[str, Any], way: str) -> dict[str, Any]:
    times = {what: peer[way]["median"] for what, peer in peers.items()}
    ours, theirs, copy = (times.get(what) for what in ("hala", "mergekit", "copy"))
    speedup = theirs / ours if ours and theirs else None
    share = FLOOR_OVER_COPY * copy / ours if ours and copy else None
    return {
        "speedup_over_mergekit": speedup,
        "floor_seconds": copy and FLOOR_OVER_COPY * copy,
        "share_of_floor": share,
        "met": {
            "speedup": None if speedup is None else speedup >= REQUIRED_SPEEDUP,
            "floor": None if share is None else share >= REQUIRED_SHARE,
        },
    }


def _memory(ours: list[Sample]) -> dict[str, Any]:
    peaks = {key: max((s[key] for s in ours), default=None) for key in PEAKS}
    met = peaks["anonymous_bytes"] < ALLOWED_BYTES if ours else None
    return {**peaks, "allowed_bytes": ALLOWED_BYTES, "met": met}


def show(summary: dict[str, Any], console: Console) -> None:
    columns = ("cache", "", "seconds", "on disk", "of CPU", "GB own", "GB in all")
    table = Table(*columns, box=None, pad_edge=False)
    for cache in CACHES:
        for what, peer in summary[cache]["peers"].items():
            times = [_spread(peer[way]) for way in WAYS]
            times.append(f"{peer['cpu_seconds']['median']:.2f}")
            memory = (f"{peer[key] / 1e9:.2f}" for key in ("anonymous_bytes", "max_rss_bytes"))
            table.add_row(cache, what, *times, *memory)
    console.print(table)
    for cache in CACHES:
        for way in WAYS:
            found = summary[cache][way]
            speedup, share = found["speedup_over_mergekit"], found["share_of_floor"]
            if speedup is not None:
                console.print(
                    f"{cache}, {way.replace('_', ' ')}: {speedup:.1f} times MergeKit's speed, "
                    f"target {REQUIRED_SPEEDUP:g} {_told(found['met']['speedup'])}",
                    highlight=False,
                )
            if share is not None:
                console.print(
                    f"{cache}, {way.replace('_', ' ')}: {share:.0%} of the floor's speed, "
                    f"target {REQUIRED_SHARE:.0%} {_told(found['met']['floor'])}",
                    highlight=False,
                )
    memory = summary["memory"]
    if memory["met"] is not None:
        console.print(
            f"own memory {memory['anonymous_bytes'] / 1e9:.2f} GB, target below "
            f"{ALLOWED_BYTES / 1e9:.2f} GB {_told(memory['met'])}",
            highlight=False,
        )


def _told(met: bool) -> str:
    return "met" if met else "NOT met"


def _spread(times: dict[str, float]) -> str:
    return f"{times['median']:.2f} ({times['q1']:.2f}-{times['q3']:.2f})"


def _remove(directory: Path) -> None:
    for name in ("base", "tuned", "result"):
        shutil.rmtree(directory / name, ignore_errors=True)
    (directory / "merge.yml").unlink(missing_ok=True)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.merge", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peers", default=",".join(PEERS), help="default: all of %(default)s")
    parser.add_argument("--mergekit", default=sys.executable, metavar="PYTHON")
    parser.add_argument("--dir", type=Path, default=Path("runs/merge-bench"))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the full result here")
    parser.add_argument("--tiny", action="store_true", help="models of a few kilobytes, to try it")
    options = parser.parse_args(arguments)
    peers = options.peers.split(",")
    if unknown := set(peers) - set(PEERS):
        parser.error(f"--peers: {', '.join(unknown)} is not among {', '.join(PEERS)}")
    theirs = mergekit_versions(options.mergekit) if "mergekit" in peers else None
    dims = small_dims() if options.tiny else merge_pair.LFM2_1_2B
    commit = machine.commit()
    directory = options.dir.resolve()
    try:
        _remove(directory)
        base, _ = merge_pair.write(directory, dims)
        source_bytes = weight_bytes(base)
        samples = measure(directory, peers, options.repeats, options.mergekit, Console(stderr=True))
    finally:
        _remove(directory)
    summary = summarize(samples)
    show(summary, Console())
    if options.json:
        result = {
            "bench": "merge",
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "device": machine.cpu(),
            "versions": machine.versions() | {"ml_dtypes": version("ml_dtypes")},
            "mergekit": theirs,
            **commit,
            "t": T,
            "source_bytes": source_bytes,
            "samples": samples,
            "summary": summary,
        }
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0 if summary["met"] else 1


if __name__ == "__main__":
    sys.exit(main())
