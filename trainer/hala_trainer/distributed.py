"""The processes of a run: one a device, under torchrun, `--nproc`, or alone.

Alone is a group of one, so that there is one way to train. Host-side numbers go over a gloo group
of their own, with a long patience: one process tokenises while the others wait.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from hala_trainer.errors import InputError

T = TypeVar("T")
PATIENCE = timedelta(hours=24)  # tokenising a corpus, writing a checkpoint


@dataclass(frozen=True)
class Processes:
    rank: int
    world: int
    device: torch.device
    mesh: DeviceMesh
    control: dist.ProcessGroup  # gloo

    def sums(self, *values: float) -> list[float]:
        """Over all processes, in float64."""
        numbers = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(numbers, group=self.control)
        return numbers.tolist()

    def first(self, work: Callable[[], T]) -> T:
        """`work` on every process, on the first one before the others: what it leaves on disk, they
        find. An InputError of any of them is raised by all."""
        value, told = None, None
        for turn in (self.rank == 0, self.rank > 0):
            if turn:
                try:
                    value = work()
                except InputError as error:
                    told = str(error)
            problems: list[str | None] = [None] * self.world
            dist.all_gather_object(problems, told, group=self.control)
            if problem := next(filter(None, problems), None):
                raise InputError(problem)
        return value

    def barrier(self) -> None:
        dist.barrier(group=self.control)


def world_size() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    return int(os.environ.get("RANK", "0"))


@contextmanager
def processes(device: str) -> Iterator[Processes]:
    """The group of this run, left on the way out. `device`: auto, cpu or cuda.

    Raises InputError where there is no such device, or there are fewer than processes.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    local = int(os.environ.get("LOCAL_RANK", "0"))
    where = torch.device("cpu")
    if device == "cuda":
        if not torch.cuda.is_available():
            raise InputError("train.device is cuda, but torch finds no GPU; set it to cpu or auto")
        if local >= torch.cuda.device_count():
            raise InputError(
                f"process {local} of this machine has no GPU: there are "
                f"{torch.cuda.device_count()}; start at most as many processes"
            )
        where = torch.device("cuda", local)
        torch.cuda.set_device(where)
    backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
    if world_size() > 1:
        dist.init_process_group(backend)
    else:
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    try:
        torch.set_flush_denormal(True)  # decayed optimizer moments would otherwise slow a CPU down
        mesh = init_device_mesh(device, (world_size(),))
        control = dist.new_group(backend="gloo", timeout=PATIENCE)
        yield Processes(rank(), world_size(), where, mesh, control)
    finally:
        torch.set_flush_denormal(False)
        dist.destroy_process_group()
