"""Are hala-train's losses and gradients on a device those of the CPU?

Small models. In float32 the CPU trains on each document alone, the device on packed rows, as they
are, recomputed and compiled, and on a document a row. In bfloat16 the CPU packs too, and only
rounding may differ.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from bench.part import Part
from bench.small_runs import MODELS, VOCABULARY, write_model

LENGTHS = (70, 1, 33, 250, 1, 1, 129, 64, 17, 200, 2, 90)
"""Of the documents; one-token ones, and some beyond a block of 128, are among them."""
SEQ_LEN = 256

LIMITS = {"float32": 2e-3, "bfloat16": 0.08}
"""Largest relative difference of a parameter's gradient, by its norm. In float32 it leaves room for
tensor cores; rounding to bfloat16 alone moves a gradient by 0.03, a convolution that reads the
neighbouring document by 0.27, attention that does by 1."""

Gradients = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Way:
    """How the loss is computed. `rows`: packed; padded, a document each; alone, as it is."""

    device: str
    rows: str = "packed"
    compute: str = "float32"
    compile: bool = False
    recompute: str = "none"

    @property
    def name(self) -> str:
        parts = [self.compute, self.rows, *(["compiled"] * self.compile)]
        return ", ".join(parts + [f"recompute {self.recompute}"] * (self.recompute != "none"))


def ways(device: str) -> list[Way]:
    return [
        Way(device),
        Way(device, "padded"),
        Way(device, compute="bfloat16"),
        Way(device, recompute="selective"),
        Way(device, recompute="full"),
        Way(device, compute="bfloat16", compile=True),
        Way(device, compile=True, recompute="selective"),
    ]


def check(part: Part) -> None:
    """Differences by model and way; "ok" when all of them are within `LIMITS`. An error in one way
    is its result, and not ok; those without time are "not_reached", and not ok either."""
    found = part.result
    found |= {"limits": LIMITS, "models": {}, "not_reached": [], "ok": False}
    ok = True
    for name in MODELS:
        entry = found["models"][name] = {}
        with tempfile.TemporaryDirectory() as folder:
            model = write_model(Path(folder) / "model", name)
            exact = gradients(model, Way("cpu", "alone"))
            rounded = gradients(model, Way("cpu", compute="bfloat16"))
            for way in ways(part.device):
                if way.compile and part.tiny:
                    continue  # on a CPU it takes longer than all the rest
                if part.late:
                    found["not_reached"].append(f"{name}, {way.name}")
                    continue
                reference = exact if way.compute == "float32" else rounded
                try:
                    result = difference(gradients(model, way), reference)
                except Exception as error:
                    result = {"error": f"{type(error).__name__}: {str(error)[:300]}"}
                entry[way.name] = result
                ok &= "error" not in result and max(result.values()) < LIMITS[way.compute]
                part.save()
                torch.compiler.reset()
    found["ok"] = ok and not found["not_reached"]
    part.save()


def gradients(model_folder: Path, way: Way) -> tuple[float, Gradients]:
    """The summed loss, and each parameter's gradient in float32 on the CPU."""
    from hala_trainer.config import ModelConfig, TrainConfig
    from hala_trainer.data.documents import Corpus, Documents
    from hala_trainer.data.order import in_order
    from hala_trainer.data.packing import build_batch
    from hala_trainer.distributed import processes
    from hala_trainer.model import loading
    from hala_trainer.model.packed import Inputs
    from hala_trainer.model.sharding import shard

    rng = np.random.default_rng(0)
    offsets = np.concatenate([[0], np.cumsum(LENGTHS)])
    ids = rng.integers(5, VOCABULARY, offsets[-1]).astype(np.uint16)
    supervised = rng.random(offsets[-1]) < 0.6
    supervised[offsets[:-1]] = False
    corpus = Corpus([Documents(ids, supervised, offsets)])
    each = [[i] for i in range(len(LENGTHS))]
    if way.rows == "packed":
        batches = list(in_order(corpus, 2, SEQ_LEN, pad=0))
    elif way.rows == "padded":
        batches = [build_batch(corpus, each, len(each), SEQ_LEN, pad=0)]
    else:
        batches = [build_batch(corpus, [i], 1, LENGTHS[i[0]], pad=0) for i in each]
    train = TrainConfig(compile=way.compile, recompute=way.recompute)
    with processes(way.device) as group:
        model = loading.build(loading.load_config(model_folder), way.compute)
        shard(model, group.mesh, train)
        loading.fill(model, model_folder, ModelConfig(path=str(model_folder)), group.device)
        model.train()
        total = 0.0
        for batch in batches:
            loss = model(Inputs.of(batch, group.device))
            loss.backward()
            total += loss.item()
        found = {
            name: p.grad.full_tensor().float().cpu()
            for name, p in model.named_parameters()
            if p.grad is not None
        }
    return total, found


def difference(ours: tuple[float, Gradients], exact: tuple[float, Gradients]) -> dict[str, float]:
    """Relative: of the loss, and of the gradient that differs most."""
    (loss, mine), (exact_loss, theirs) = ours, exact
    if mine.keys() != theirs.keys():
        raise RuntimeError(f"gradients of other parameters: {sorted(mine.keys() ^ theirs.keys())}")
    worst = max(
        ((mine[name] - theirs[name]).norm() / theirs[name].norm()).item() for name in theirs
    )
    return {"loss": abs(loss / exact_loss - 1), "gradient": worst}
