"""`python -m bench.engine_parts JOB.json RESULT.json`: one part of `bench.gpu engine`.

Each part runs in a process of its own, which writes its result anew after every sample: what was
measured before an error, or before the time was up, is kept. Weights are random; outputs are forced
to their lengths; times are whole `generate` calls with tokens delivered to the host.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import torch

from bench import architectures
from bench.architectures import COMMAND_A_LAYERS, Raw
from bench.idle import idle_share
from bench.kernels.timing import Limits
from bench.part import TINY_CACHE, Part, Sizes, config_file, run_job, seconds_of
from bench.roofline import ModelCost, job_floor
from bench.workload import Workload
from hala_engine import Engine, SamplingParams
from hala_engine.benchmark.baseline import Baseline


def throughput(part: Part) -> None:
    """LFM2-1.2B in bfloat16, prompts and outputs of mixed lengths."""
    sizes, raw, limit = part.sizes, part.sized(architectures.lfm2_1b2()), part.limits()
    workload = mixed(sizes.requests, sizes)
    part.result |= {"config": raw, "workload": workload.to_dict(), "runs": []}
    for slots in sizes.slots:
        run = timed_job(part, raw, workload, slots)
        run |= {"slots": slots} | share_of_floor(raw, workload, slots, limit, run)
        part.result["runs"].append(run)
        part.save()


def transformers(part: Part) -> None:
    """`generate` on the same model: padded batches, on some of the requests."""
    sizes, raw = part.sizes, part.sized(architectures.lfm2_1b2())
    workload = mixed(sizes.peer_requests, sizes)
    prompts, (_, wanted) = workload.prompts(raw["vocab_size"]), workload.lengths()
    part.result |= {"workload": workload.to_dict(), "runs": []}
    with config_file(raw) as path:
        model = Baseline(
            path,
            random_weights=True,
            dtype=torch.bfloat16,
            device=torch.device(part.device),
        )
    for batch in sizes.peer_batches:
        model.generate(prompts[:batch], [2] * batch, batch)
        run = {"batch": batch, "seconds": []}
        part.result["runs"].append(run)
        while len(run["seconds"]) < sizes.repeats and not (part.late and run["seconds"]):
            run["seconds"].append(seconds_of(lambda b=batch: model.generate(prompts, wanted, b)))
            run["new_tokens_per_s"] = sum(wanted) / median(run["seconds"])
            part.save()


def batches(part: Part) -> None:
    """Seconds of a decode step by batch size: the difference of two output lengths."""
    sizes, raw, limit = part.sizes, part.sized(architectures.lfm2_1b2()), part.limits()
    part.result["steps"] = []
    longest = sizes.prompt + max(sizes.steps)

    def each(engine: Engine) -> None:
        for batch in sizes.batches:
            part.result["steps"].append(decode_step(engine, raw, batch, sizes, limit))
            part.save()
            if part.late:
                break

    part.on_engine(raw, each, max_batch_size=max(sizes.batches), max_model_len=longest)


def fp8_9b(part: Part) -> None:
    """FP8 over bfloat16 at Gemma2-9B's dimensions, weights of one seed."""
    sizes, raw = part.sizes, part.sized(architectures.gemma2_9b())
    workload = mixed(sizes.fp8_requests, sizes)
    part.result |= {"workload": workload.to_dict(), "slots": sizes.fp8_slots}
    part.result |= compare_formats(part, raw, workload)
    part.save()


def fp8_111b(part: Part) -> None:
    """The same for command-a-translate: slices of two depths, and from them all its layers."""
    sizes = part.sizes
    workload = mixed(sizes.fp8_requests, sizes)
    part.result |= {"workload": workload.to_dict(), "slots": sizes.fp8_slots, "slices": {}}
    for layers in sizes.slices:
        raw = part.sized(architectures.command_a(layers))
        part.result["slices"][layers] = compare_formats(part, raw, workload)
        part.save()
    few, many = sizes.slices
    scaled = {}
    for name in ("bf16", "fp8"):
        a, b = (median(part.result["slices"][n][name]["seconds"]) for n in sizes.slices)
        a_layer = (b - a) / (many - few)
        scaled[f"{name}_seconds"] = a + (COMMAND_A_LAYERS - few) * a_layer
    scaled["ratio"] = scaled["bf16_seconds"] / scaled["fp8_seconds"]
    part.result["scaled_to_layers"] = COMMAND_A_LAYERS
    part.result["scaled"] = scaled
    part.save()


def idle(part: Part) -> None:
    """The share of a decode's wall time in which no kernel runs."""
    sizes, raw = part.sizes, part.sized(architectures.lfm2_1b2())
    batch, tokens = sizes.idle_batch, sizes.idle_tokens
    longest = sizes.prompt + tokens
    part.result |= {"batch": batch, "new_tokens": tokens, "samples": []}

    def trace(engine: Engine) -> None:
        def work() -> None:
            generate(engine, [sizes.prompt] * batch, [tokens] * batch)

        work()
        for _ in range(sizes.repeats):
            part.result["samples"].append(idle_share(work, part.device))
            part.result["idle_share"] = median(s["idle_share"] for s in part.result["samples"])
            part.save()
            if part.late:
                break

    part.on_engine(raw, trace, max_batch_size=batch, max_model_len=longest)


def continuous(part: Part) -> None:
    """transformers' continuous batching: on LFM2 as far as it runs, and on a model of attention
    alone, with ours beside it."""
    sizes = part.sizes
    workload = mixed(sizes.requests, sizes)
    part.result["workload"] = workload.to_dict()
    for name in ("lfm2_1b2", "llama_1b2"):
        raw = part.sized(getattr(architectures, name)())
        entry = part.result[name] = {}
        try:
            _continuous(part, raw, workload, entry)
        except Exception as error:
            entry["error"] = f"{type(error).__name__}: {error}"
        part.save()
        part.clear()
    entry = part.result["llama_1b2"]
    entry["ours"] = timed_job(part, raw, workload, max(sizes.slots))
    if "seconds" in entry:
        entry["ratio"] = median(entry["seconds"]) / median(entry["ours"]["seconds"])
    part.save()


def _continuous(part: Part, raw: Raw, workload: Workload, entry: dict[str, Any]) -> None:
    from bench.peers.hf_continuous import Peer

    prompts, (_, wanted) = workload.prompts(raw["vocab_size"]), workload.lengths()
    job = {"device": part.device, "dtype": "bfloat16", "cache": TINY_CACHE if part.tiny else {}}
    with config_file(raw) as path:
        peer = Peer(job | {"config": str(path)})
    few, count = prompts[:8], 4
    expected = np.array([peer.generated(prompt, count) for prompt in few])
    with peer:
        got = np.array(peer.run(few, [count] * len(few), part.deadline))
        # That it is the same model; bfloat16 may turn a token.
        entry["tokens_as_generate"] = float((got == expected).mean())
        entry["seconds"] = []
        for _ in range(2):
            begin = time.perf_counter()
            outputs = peer.run(prompts, wanted, part.deadline)
            entry["seconds"].append(time.perf_counter() - begin)
            if [len(tokens) for tokens in outputs] != wanted:
                raise RuntimeError("it gave other numbers of tokens than were forced")
            entry["new_tokens_per_s"] = sum(wanted) / median(entry["seconds"])
            part.save()


def deterministic(part: Part) -> None:
    """What batch invariance costs."""
    sizes, raw = part.sizes, part.sized(architectures.lfm2_1b2())
    workload = mixed(sizes.requests, sizes)
    slots = sizes.slots[0]
    part.result |= {"workload": workload.to_dict(), "slots": slots}
    for name, flag in (("off", False), ("on", True)):
        part.result[name] = timed_job(part, raw, workload, slots, deterministic=flag)
        part.save()
    seconds = [median(part.result[name]["seconds"]) for name in ("off", "on")]
    part.result["cost"] = seconds[1] / seconds[0] - 1
    part.save()


PARTS: dict[str, Callable[[Part], None]] = {
    part.__name__: part
    for part in (
        throughput,
        transformers,
        batches,
        fp8_9b,
        idle,
        continuous,
        fp8_111b,
        deterministic,
    )
}
"""By name, in order of importance."""


def mixed(requests: int, sizes: Sizes) -> Workload:
    return Workload("mixed", requests, requests, sizes.lengths, sizes.lengths)


def timed_job(
    part: Part, raw: Raw, workload: Workload, slots: int, **config: Any
) -> dict[str, Any]:
    """Of an engine made for it: see `_timed`."""
    work = partial(_timed, part, workload)
    limits = {"max_batch_size": slots, "max_model_len": workload.longest()}
    return part.on_engine(raw, work, **limits, **config)


def _timed(part: Part, workload: Workload, engine: Engine) -> dict[str, Any]:
    """Seconds of each repeat, after a first one; the engine's own counts of the last."""
    lengths, wanted = workload.lengths()
    vocab = engine.model.config.vocab_size
    run: dict[str, Any] = {"seconds": []}
    run["first_s"] = seconds_of(lambda: _generate(engine, workload.prompts(vocab), wanted))
    for repeat in range(part.sizes.repeats):
        prompts = random_prompts(vocab, lengths, seed=1 + repeat)
        steps, outside = engine.stats.steps, _outside_steps(engine)
        run["seconds"].append(seconds_of(lambda p=prompts: _generate(engine, p, wanted)))
        run["steps"] = engine.stats.steps - steps
        run["host_share"] = (_outside_steps(engine) - outside) / run["seconds"][-1]
        if part.late:
            break
    run["new_tokens_per_s"] = sum(wanted) / median(run["seconds"])
    return run


def _outside_steps(engine: Engine) -> float:
    """Seconds of the scheduler, tokens and Python; the device computes meanwhile."""
    return engine.stats.seconds - engine.stats.step_seconds


def share_of_floor(
    raw: Raw, workload: Workload, slots: int, limit: Limits, run: dict[str, Any]
) -> dict[str, Any]:
    floor = job_floor(ModelCost.of(raw), *workload.lengths(), slots, limit)
    share = floor.seconds / median(run["seconds"])
    return {"floor": vars(floor) | {"seconds": floor.seconds}, "share_of_floor": share}


def decode_step(
    engine: Engine, raw: Raw, batch: int, sizes: Sizes, limit: Limits
) -> dict[str, Any]:
    few, many = sizes.steps
    generate(engine, [sizes.prompt] * batch, [few] * batch)
    samples = []
    for _ in range(sizes.repeats):
        short, long = (
            seconds_of(lambda n=n: generate(engine, [sizes.prompt] * batch, [n] * batch))
            for n in (few, many)
        )
        samples.append((long - short) / (many - few))
    contexts = np.full(batch, sizes.prompt + (few + many) // 2)
    floor = ModelCost.of(raw).decode(contexts).seconds(limit)
    step = median(samples)
    return {
        "batch": batch,
        "samples_s": samples,
        "step_s": step,
        "floor_s": floor,
        "share_of_floor": floor / step,
        "new_tokens_per_s": batch / step,
    }


def compare_formats(part: Part, raw: Raw, workload: Workload) -> dict[str, Any]:
    """The job in bfloat16 and FP8, and how far apart the log-probabilities are that the two give to
    the tokens of the same prompts."""
    sizes, limit, found, scores = part.sizes, part.limits(), {}, []
    limits = {"max_batch_size": sizes.fp8_slots, "max_model_len": workload.longest()}

    def work(engine: Engine) -> tuple[dict[str, Any], np.ndarray]:
        return _timed(part, workload, engine), _prompt_logprobs(engine, sizes)

    for name, config in {"bf16": raw, "fp8": architectures.in_fp8(raw)}.items():
        run, logprobs = part.on_engine(config, work, **limits)
        scores.append(logprobs)
        found[name] = run | share_of_floor(config, workload, sizes.fp8_slots, limit, run)
    found["ratio"] = median(found["bf16"]["seconds"]) / median(found["fp8"]["seconds"])
    exact, rounded = scores
    found["logprob_error"] = {
        "rms": float(np.sqrt(np.mean((rounded - exact) ** 2))),
        "std_of_bf16": float(exact.std()),
        "relative_rms": float(np.sqrt(np.mean((rounded - exact) ** 2)) / exact.std()),
        "tokens": len(exact),
    }
    return found


def _prompt_logprobs(engine: Engine, sizes: Sizes) -> np.ndarray:
    """Of the tokens of a few prompts, but their first ones."""
    prompts = random_prompts(engine.model.config.vocab_size, [sizes.prompt] * 4, seed=7)
    params = SamplingParams(max_new_tokens=1, ignore_eos=True, prompt_logprobs=True)
    outputs = engine.generate(prompts, params)
    return np.concatenate([output.prompt_logprobs[1:] for output in outputs]).astype(float)


def generate(engine: Engine, lengths: list[int], wanted: list[int]) -> None:
    """Fresh random prompts of these lengths, to `wanted` new tokens each."""
    _generate(engine, random_prompts(engine.model.config.vocab_size, lengths), wanted)


def _generate(engine: Engine, prompts: list[list[int]], wanted: list[int]) -> None:
    params = [SamplingParams(max_new_tokens=n, ignore_eos=True) for n in wanted]
    outputs = engine.generate(prompts, params, ordered=False)
    made = sum(len(output.token_ids) for output in outputs)
    if made != sum(wanted):
        raise RuntimeError(f"{sum(wanted)} new tokens were forced, {made} came")


def random_prompts(vocab: int, lengths: list[int], seed: int | None = None) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, vocab, n).tolist() for n in lengths]


if __name__ == "__main__":
    run_job(PARTS, *sys.argv[1:])
