"""`python -m bench.peers.worker JOB.json RESULT.json`: load one peer, run workloads, say how long.

The JSON result holds seconds and token counts per workload, load time and peak memory.
"""

import json
import resource
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from bench.workload import Workload, uniform

PEERS = {
    "transformers": "bench.peers.hf",
    "hala": "bench.peers.hala",
    "llama.cpp": "bench.peers.llamacpp",
    "gemm": "bench.peers.gemm",
}


def peak_rss_bytes() -> int:
    """Linux counts it per address space; getrusage would carry the parent's over the fork."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(s for s in status.read_text().splitlines() if s.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def run_workload(peer: Any, workload: Workload, vocab: int) -> dict[str, Any]:
    prompts = workload.prompts(vocab)
    _, wanted = workload.lengths()
    start = time.perf_counter()
    outputs = peer.run(prompts, wanted, workload.batch)
    seconds = time.perf_counter() - start
    got = [len(tokens) for tokens in outputs]
    if got != wanted:
        raise AssertionError(f"{workload.name}: wanted {wanted} new tokens, got {got}")
    return {
        "seconds": seconds,
        "prompt_tokens": sum(map(len, prompts)),
        "output_tokens": sum(wanted),
    }


def main(job_file: str, result_file: str) -> None:
    job = json.loads(Path(job_file).read_text())
    start = time.perf_counter()
    peer = import_module(PEERS[job["peer"]]).Peer(job)
    result: dict[str, Any] = {"peer": job["peer"], "load_s": time.perf_counter() - start}
    if "logits_of" in job:
        np.save(job["logits_file"], peer.logits(job["logits_of"]))
    if "rows" in job:
        result["gemm"] = peer.measure(job["rows"])
    if "workloads" in job:
        run_workload(peer, uniform(1, prompt=16, output=1), job["vocab"])
        result["first_token_s"] = time.perf_counter() - start
        run_workload(peer, uniform(job["warmup_batch"], prompt=32, output=4), job["vocab"])
        workloads = map(Workload.from_dict, job["workloads"])
        result["runs"] = {w.name: run_workload(peer, w, job["vocab"]) for w in workloads}
    result["peak_rss_bytes"] = peak_rss_bytes()
    result["notes"] = getattr(peer, "notes", {})
    Path(result_file).write_text(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
