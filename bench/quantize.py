"""`python -m bench.quantize`: speed and memory of `hala-engine quantize`, beside `cp`.

A random Llama checkpoint of real tensor sizes is quantized by the command, in a process of its own,
in turn with a copy of the same files by `cp`; both end with what they wrote on the disk. Speeds are
source bytes a second. "cold" rounds begin with the source out of the page cache, "warm" ones with
it in the page cache. Memory is the kernel's own record of the process, which counts the page cache
only where it is mapped.
"""

import argparse
import json
import shutil
import statistics
import sys
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from bench import machine
from bench.processes import run_measured, set_cache
from hala_engine.weights.writer import SafetensorsWriter, TensorSpec

HIDDEN, WIDTH, HEADS, KV_HEADS, HEAD_DIM, VOCAB = 4096, 14336, 32, 8, 128, 256_000
REQUIRED_SHARE = 0.6
ALLOWED_BYTES = 2 << 30
"""Targets: this share of the copy's speed; this much memory beside twice the largest tensor."""


@dataclass(frozen=True)
class Plan:
    """What one invocation measures. Sizes are in units of 10^9 bytes."""

    gb: float
    shard_gb: float
    scheme: str
    repeats: int


def tensors(gb: float) -> dict[str, TensorSpec]:
    """A Llama with tied embeddings, of as many layers as make about `gb`."""
    q, kv = HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM
    layer = {
        "input_layernorm": (HIDDEN,),
        "self_attn.q_proj": (q, HIDDEN),
        "self_attn.k_proj": (kv, HIDDEN),
        "self_attn.v_proj": (kv, HIDDEN),
        "self_attn.o_proj": (HIDDEN, q),
        "post_attention_layernorm": (HIDDEN,),
        "mlp.gate_proj": (WIDTH, HIDDEN),
        "mlp.up_proj": (WIDTH, HIDDEN),
        "mlp.down_proj": (HIDDEN, WIDTH),
    }
    shapes = {"model.embed_tokens": (VOCAB, HIDDEN), "model.norm": (HIDDEN,)}
    of_layer = sum(TensorSpec("BF16", shape).bytes for shape in layer.values())
    embedding = TensorSpec("BF16", shapes["model.embed_tokens"]).bytes
    for i in range(max(1, round((gb * 1e9 - embedding) / of_layer))):
        shapes |= {f"model.layers.{i}.{name}": shape for name, shape in layer.items()}
    return {f"{name}.weight": TensorSpec("BF16", shape) for name, shape in shapes.items()}


def write_checkpoint(directory: Path, plan: Plan) -> None:
    """config.json, shards and index."""
    directory.mkdir(parents=True)
    every = tensors(plan.gb)
    shards: list[dict[str, TensorSpec]] = [{}]
    for name, spec in every.items():
        filled = sum(s.bytes for s in shards[-1].values())
        if shards[-1] and filled + spec.bytes > plan.shard_gb * 1e9:
            shards.append({})
        shards[-1][name] = spec
    generator = torch.Generator().manual_seed(0)
    pool = torch.randn(1 << 23, generator=generator).mul_(0.02).bfloat16().view(torch.uint8)
    places = {}
    for i, shard in enumerate(shards, 1):
        file = f"model-{i:05d}-of-{len(shards):05d}.safetensors"
        places |= dict.fromkeys(shard, file)
        with SafetensorsWriter(directory / file, shard, {"format": "pt"}) as writer:
            for name, spec in shard.items():
                for start in range(0, spec.bytes, pool.numel()):
                    part = pool[: min(pool.numel(), spec.bytes - start)]
                    writer.write(name, part.numpy().data, start)
    size = sum(spec.bytes for spec in every.values())
    index = {"metadata": {"total_size": size}, "weight_map": places}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    (directory / "config.json").write_text(json.dumps(_config(every)))


def _config(every: dict[str, TensorSpec]) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": VOCAB,
        "hidden_size": HIDDEN,
        "intermediate_size": WIDTH,
        "num_hidden_layers": sum(name.endswith("q_proj.weight") for name in every),
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500_000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "dtype": "bfloat16",
    }


def measure(plan: Plan, source: Path, console: Console) -> list[dict[str, Any]]:
    target = source.with_name("result")
    quantize = [sys.executable, "-m", "hala_engine.cli", "quantize", str(source), str(target)]
    commands = {
        "copy": ["sh", "-c", 'cp -r "$0" "$1" && sync "$1"/*', str(source), str(target)],
        "quantize": [*quantize, "--scheme", plan.scheme],
    }
    samples = []
    for repeat in range(plan.repeats):
        for cache in ("cold", "warm"):
            order = list(commands) if repeat % 2 == 0 else list(commands)[::-1]
            for what in order:
                shutil.rmtree(target, ignore_errors=True)
                set_cache(source, warm=cache == "warm")
                load = machine.ForeignLoad()
                measured = run_measured(commands[what])
                foreign = load.share()
                row = {"what": what, "cache": cache, "repeat": repeat, "foreign_load": foreign}
                samples.append(row | measured)
                console.print(
                    f"{cache} {repeat} {what}: {measured['seconds']:.1f} s "
                    f"({measured['cpu_seconds']:.1f} s of processors), "
                    f"{measured['max_rss_bytes'] / 1e9:.2f} GB resident",
                    highlight=False,
                )
    shutil.rmtree(target, ignore_errors=True)
    return samples


def summarize(
    samples: list[dict[str, Any]], source_bytes: int, largest_bytes: int
) -> dict[str, Any]:
    """Medians for each state of the page cache, and whether the targets are met."""

    def median(what: str, cache: str) -> float:
        times = [s["seconds"] for s in samples if (s["what"], s["cache"]) == (what, cache)]
        return source_bytes / statistics.median(times)

    speeds = {}
    for cache in ("cold", "warm"):
        copy, ours = median("copy", cache), median("quantize", cache)
        speeds[cache] = {"copy_bytes_s": copy, "quantize_bytes_s": ours, "share": ours / copy}
    peak = max(s["max_rss_bytes"] for s in samples if s["what"] == "quantize")
    allowed = ALLOWED_BYTES + 2 * largest_bytes
    return {
        **speeds,
        "max_rss_bytes": peak,
        "allowed_rss_bytes": allowed,
        "met": peak < allowed and all(s["share"] >= REQUIRED_SHARE for s in speeds.values()),
    }


def show(summary: dict[str, Any], console: Console) -> None:
    table = Table("page cache", "cp, MB/s", "quantize, MB/s", "share of cp")
    for cache in ("cold", "warm"):
        speed = summary[cache]
        table.add_row(
            cache,
            f"{speed['copy_bytes_s'] / 1e6:,.0f}",
            f"{speed['quantize_bytes_s'] / 1e6:,.0f}",
            f"{speed['share']:.0%}",
        )
    console.print(table)
    console.print(
        f"peak resident memory {summary['max_rss_bytes'] / 1e9:.2f} GB, allowed "
        f"{summary['allowed_rss_bytes'] / 1e9:.2f} GB; targets "
        + ("met" if summary["met"] else "NOT met"),
        highlight=False,
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.quantize", description=__doc__)
    parser.add_argument("--gb", type=float, default=8.0, help="checkpoint size (default 8)")
    parser.add_argument("--shard-gb", type=float, default=2.0, help="size of a file (default 2)")
    parser.add_argument("--scheme", default="fp8-dynamic", choices=("fp8-dynamic", "fp8-block"))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dir", type=Path, default=Path("runs/quantize-bench"))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the full result here")
    parser.add_argument("--keep", action="store_true", help="leave the source checkpoint there")
    options = parser.parse_args(arguments)
    console = Console(stderr=True)
    plan = Plan(options.gb, options.shard_gb, options.scheme, options.repeats)
    commit = machine.commit()
    source = options.dir / "source"
    try:
        shutil.rmtree(source, ignore_errors=True)
        write_checkpoint(source, plan)
        samples = measure(plan, source.resolve(), console)
    finally:
        if not options.keep:
            shutil.rmtree(source, ignore_errors=True)
        shutil.rmtree(options.dir / "result", ignore_errors=True)
    sizes = [spec.bytes for spec in tensors(plan.gb).values()]
    summary = summarize(samples, sum(sizes), max(sizes))
    show(summary, Console())
    if options.json:
        result = {
            "bench": "quantize",
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "device": machine.cpu(),
            "versions": machine.versions(),
            **commit,
            "plan": asdict(plan),
            "source_bytes": sum(sizes),
            "largest_tensor_bytes": max(sizes),
            "samples": samples,
            "summary": summary,
        }
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0 if summary["met"] else 1


if __name__ == "__main__":
    sys.exit(main())
