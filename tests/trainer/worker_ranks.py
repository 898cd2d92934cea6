"""Cases that several processes go through together, and a small sharded model for them.

`run_ranks` starts this file as a script, a process a rank. Each prints what it found as JSON; what
the ranks must agree on, the test compares.
"""

import json
import os
import resource
import socket
import subprocess
import sys
import time
import weakref
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from hala_trainer.errors import TrainError
from hala_trainer.saving import checkpoint_files, export
from hala_trainer.saving.checkpoint import Checkpoints, State

ROOT = Path(__file__).parents[2]


class Noisy(nn.Module):
    """Its loss depends on the random state. On two ranks the 5 rows are shared unevenly, and the
    single row leaves the second rank without any."""

    def __init__(self, width: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.wide = nn.Parameter(torch.randn(5, width, generator=generator))
        self.single = nn.Parameter(torch.randn(1, width, generator=generator))
        self.vector = nn.Parameter(torch.randn(width, generator=generator))

    def forward(self) -> torch.Tensor:
        noise = torch.randn(len(self.vector))
        return ((self.wide + self.single) * (self.vector + noise)).square().sum()


class Trained(State):
    """A State with the module it belongs to."""

    def __init__(self, width: int = 3, **scalars) -> None:
        self.module = Noisy(width)
        fully_shard(self.module)
        optimizer = torch.optim.AdamW(self.module.parameters(), lr=0.1, fused=True)
        super().__init__(dict(self.module.named_parameters()), optimizer, scalars)

    def train(self, steps: int = 1) -> "Trained":
        for _ in range(steps):
            self.module().backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
        return self

    def values(self) -> dict[str, list]:
        """Weights and moments, gathered."""
        return {
            name: (t.full_tensor() if hasattr(t, "full_tensor") else t).tolist()
            for name, t in self.tensors().items()
        }


def run_ranks(case: str, *arguments: object, world: int = 2) -> list[dict]:
    """What each rank found in `case`. Nothing may be said on stderr."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.trainer.worker_ranks", case, *map(str, arguments)],
            cwd=ROOT,
            env=os.environ
            | {"RANK": str(rank), "WORLD_SIZE": str(world), "OMP_NUM_THREADS": "1"}
            | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]
    said = [rank.communicate(timeout=120) for rank in ranks]
    assert [err for _, err in said] == [""] * world
    return [json.loads(out) for out, _ in said]


def checkpoints(root: str, from_one: str) -> dict:
    """Save on two ranks, restore on two, and from the checkpoints of one under `from_one`."""
    found: dict[str, object] = {}
    rank = dist.get_rank()
    torch.manual_seed(rank)
    store = Checkpoints(Path(root), keep=2, asynchronous=True)
    state = Trained(step=2).train(2)
    found["saved"] = state.values()
    write = checkpoint_files.Writer.write_data

    def slowly(*arguments):
        time.sleep(0.5)
        return write(*arguments)

    checkpoint_files.Writer.write_data = slowly
    store.save(state, 2)
    found["unbroken"] = state.train(3).values()
    found["trained while writing"] = not store._pending.written.done()
    checkpoint_files.Writer.write_data = write

    mine = store._pending
    mine.written.result()
    unfinished = replace(mine, written=Future()) if rank == 1 else mine
    store._pending = unfinished
    store.poll()
    found["after one rank's poll"] = store.steps()
    store._pending = mine
    store.wait()
    found["steps"] = store.steps()

    other = Trained()
    torch.manual_seed(100)
    found["restored step"] = store.restore(other)
    found["restored"] = other.values()
    found["scalars"] = other.scalars
    found["resumed"] = other.train(3).values()

    one = Trained()
    torch.manual_seed(100 + rank)
    before = torch.get_rng_state()
    Checkpoints(Path(from_one), keep=2, asynchronous=True).restore(one)
    found["from one"] = one.values()
    found["random left"] = torch.equal(before, torch.get_rng_state())
    return found | full_disk(Path(root) / "full")


def full_disk(root: Path) -> dict:
    """The second rank cannot write."""
    state = Trained(width=4096)
    store = Checkpoints(root, keep=2, asynchronous=True)
    store.save(state, 1)
    store.wait()
    found = {"error": None}
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    if dist.get_rank() == 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, unlimited[1]))
    try:
        store.save(state, 2)
        store.wait()
    except TrainError as error:
        found["error"] = str(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    found["left"] = sorted(path.name for path in root.iterdir())
    store.save(state, 2)
    store.wait()
    found["steps after it"] = store.steps()
    store.save(state, 3)
    if dist.get_rank() == 1:
        lost = Future()
        lost.set_exception(MemoryError("no memory"))
        store._pending = replace(store._pending, written=lost)
    try:
        store.wait()
    except TrainError as error:
        found["lost"] = str(error)
    return found


def sharded_model(folder: str):
    """A model of the configuration in `folder`, sharded, the same for any number of ranks."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    for block in model.model.layers:
        fully_shard(block)
    return fully_shard(model)


def exports(root: str, folder: str) -> dict:
    """The model of `folder` written whole, in several files, and when it cannot be."""
    from transformers import AutoTokenizer

    model, tokenizer = sharded_model(folder), AutoTokenizer.from_pretrained(folder)
    parameters, config = dict(model.named_parameters()), model.config
    found: dict[str, object] = {"most tensors at once": 0}
    held: list[weakref.ref] = []
    gather = DTensor.full_tensor

    def watched(tensor):
        alive = sum(ref() is not None for ref in held)
        found["most tensors at once"] = max(found["most tensors at once"], alive + 1)
        full = gather(tensor)
        held.append(weakref.ref(full))
        return full

    DTensor.full_tensor = watched
    export.export(Path(root, "whole"), parameters, config, tokenizer, "bfloat16")
    DTensor.full_tensor = gather
    export.SHARD_BYTES = 20_000
    export.export(Path(root, "files"), parameters, config, tokenizer, "float32")

    def failure(name: str, dtype: str) -> str | None:
        try:
            export.export(Path(root, name), parameters, config, tokenizer, dtype)
        except TrainError as error:
            return str(error)

    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    if dist.get_rank() == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, unlimited[1]))
    found["full disk"] = failure("full", "float32")
    resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    with torch.no_grad():
        parameters["model.layers.2.self_attn.k_proj.weight"].mul_(1e7)
    found["overflow"] = failure("overflow", "float16")
    dist.barrier()
    found["left"] = sorted(path.name for path in Path(root).iterdir())
    return found


CASES = {case.__name__: case for case in (checkpoints, exports)}

if __name__ == "__main__":
    dist.init_process_group("gloo")
    print(json.dumps(CASES[sys.argv[1]](*sys.argv[2:])))
    dist.destroy_process_group()
