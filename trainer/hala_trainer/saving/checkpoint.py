"""checkpoints/step-N: all that exact resume needs, written by every rank with torch's DCP.

That is the float32 master weights, AdamW's moments, the random states of each rank, and the run's
scalars. A checkpoint is written under another name and renamed when every rank has written its
part, so a folder called step-N is always whole.

An asynchronous save copies this rank's shards to the host first (12 bytes x parameters / world,
given back when they are on the disk; nothing more on the GPU), so training goes on at once. The
writing threads talk through a process group of their own: in a shared one, their messages would
fall between those of the training loop.
"""

import shutil
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

from hala_trainer.distributed import PATIENCE
from hala_trainer.errors import InputError, TrainError
from hala_trainer.saving import checkpoint_files as files

MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass
class State:
    """parameters: the float32 masters by their names in a Hugging Face checkpoint, DTensors or
    plain tensors. optimizer: AdamW over these very tensors. scalars: what JSON can hold, the same
    on all ranks."""

    parameters: dict[str, torch.Tensor]
    optimizer: torch.optim.AdamW
    scalars: dict[str, Any]

    def tensors(self) -> dict[str, torch.Tensor]:
        """All but the random states, by names in the checkpoint; the tensors themselves."""
        held: dict[str, torch.Tensor] = {}
        for name, parameter in self.parameters.items():
            moments = self.optimizer.state[parameter]
            if not moments:  # AdamW makes them at its first step, which a restore comes before
                moments |= self._fresh_moments(parameter)
            held[f"{files.MODEL}{name}"] = parameter.detach()
            for key in (*MOMENTS, "step"):
                held[f"optim.{key}.{name}"] = moments[key]
        return held

    def random(self) -> dict[str, torch.Tensor]:
        """Copies of this rank's random states."""
        states = {f"rng.cpu.{dist.get_rank()}": torch.get_rng_state()}
        if self._device == "cuda":
            states[f"rng.cuda.{dist.get_rank()}"] = torch.cuda.get_rng_state()
        return states

    def set_random(self, states: dict[str, torch.Tensor]) -> None:
        torch.set_rng_state(states[f"rng.cpu.{dist.get_rank()}"])
        if self._device == "cuda":
            torch.cuda.set_rng_state(states[f"rng.cuda.{dist.get_rank()}"])

    @property
    def ranks(self) -> str:
        """Whose random states these are: they mean nothing to ranks of another number or kind."""
        return f"{dist.get_world_size()} {self._device}"

    @property
    def _device(self) -> str:
        return next(iter(self.parameters.values())).device.type

    def _fresh_moments(self, parameter: torch.Tensor) -> dict[str, torch.Tensor]:
        fused = any(group["fused"] for group in self.optimizer.param_groups)
        step = torch.zeros((), device=parameter.device if fused else "cpu")
        return {key: torch.zeros_like(parameter) for key in MOMENTS} | {"step": step}


@dataclass(frozen=True)
class _Pending:
    """A checkpoint that the writing threads are at. `written` speaks for this rank alone."""

    step: int
    folder: Path
    written: Future


class Checkpoints:
    """The checkpoints under `root`, of which the newest `keep` are kept.

    All ranks call each method together, from their main threads. What a killed run left half
    written is removed here. Raises InputError where nothing can be written.
    """

    def __init__(self, root: Path, keep: int, asynchronous: bool) -> None:
        self.root, self.keep, self.asynchronous = root, keep, asynchronous
        self._talking = dist.new_group(backend="gloo", timeout=PATIENCE)  # main threads
        self._saving = dist.new_group(backend="gloo", timeout=PATIENCE)  # writing threads
        self._pending: _Pending | None = None
        try:
            self._on_rank_0(lambda: files.remove_leftovers(root))
        except OSError as error:
            raise InputError(f"{root}: cannot write there ({error.strerror})") from None

    def steps(self) -> list[int]:
        """The steps of the whole checkpoints, oldest first."""
        return self._on_rank_0(lambda: files.steps_saved(self.root))

    def save(self, state: State, step: int) -> None:
        """Save `state` as it is after `step`, unless there is a checkpoint of that step.

        Asynchronous: returns when the state has been copied; the checkpoint appears in a later
        `save`, `poll` or `wait`. Raises TrainError when this one or the one before it could not be
        written; the earlier ones are kept.
        """
        self.wait()
        if step in self.steps():
            return
        folder = self.root / f"tmp-{step}"
        try:
            self._on_rank_0(lambda: files.begin(folder, state.ranks, state.scalars))
        except OSError as error:
            self._give_up(folder, step, _reason(error))
        written = self._write(state.tensors() | state.random(), folder)
        self._pending = _Pending(step, folder, written)
        if not self.asynchronous:
            self.wait()

    def poll(self) -> None:
        """Let the checkpoint in progress appear if all ranks have written it. Raises as `save`."""
        if self._pending:
            written = torch.tensor(int(self._pending.written.done()))
            dist.all_reduce(written, dist.ReduceOp.MIN, group=self._talking)
            if written:
                self._finish(self._pending)

    def wait(self) -> None:
        """Until the checkpoint in progress, if there is one, is written. Raises as `save`."""
        if self._pending:
            self._finish(self._pending)

    def restore(self, state: State) -> int:
        """Load the newest checkpoint into `state`, in place; its step, or 0 if there is none.

        It may be one of other ranks, by number or kind; random states are then left as they are.
        Raises InputError for a checkpoint that is damaged or of another model.
        """
        steps = self.steps()
        if not steps:
            return 0
        folder = self.root / f"step-{steps[-1]}"
        earlier = f"from step {steps[-2]}" if len(steps) > 1 else "from the beginning"
        remedy = f"remove that folder to go on {earlier}"
        shapes = {name: tuple(p.shape) for name, p in state.parameters.items()}
        ranks, scalars = self._on_rank_0(lambda: files.read_scalars(folder, shapes, remedy))
        random = state.random() if ranks == state.ranks else {}
        try:
            dcp.load(state.tensors() | random, checkpoint_id=folder, process_group=self._talking)
        except CheckpointException as error:
            raise InputError(
                f"{folder} is damaged (its tensors cannot be read); {remedy}"
            ) from error
        if random:
            state.set_random(random)
        state.scalars.clear()
        state.scalars.update(scalars)
        return steps[-1]

    def _write(self, tensors: dict[str, torch.Tensor], folder: Path) -> Future:
        to = {"storage_writer": files.Writer(folder), "process_group": self._saving}
        if self.asynchronous:
            stager = DefaultStager(StagingOptions(False, False, False, False))
            written = dcp.async_save(tensors, async_stager=stager, **to)
            written.add_done_callback(lambda _: stager.close())
            return written
        written = Future()
        try:
            written.set_result(dcp.save(tensors, **to))
        except CheckpointException as error:
            written.set_exception(error)
        return written

    def _finish(self, pending: _Pending) -> None:
        """Once the writing has ended on every rank: what was written appears, or goes."""
        self._pending = None
        error = pending.written.exception()  # waits
        reasons: list[str | None] = [None] * dist.get_world_size()
        dist.all_gather_object(reasons, _reason(error) if error else None, group=self._talking)
        reason = next((r for r in reasons if r), None)
        if not reason:
            try:
                self._on_rank_0(lambda: files.appear(pending.folder, pending.step, self.keep))
            except OSError as error:
                reason = _reason(error)
        if reason:
            self._give_up(pending.folder, pending.step, reason)

    def _give_up(self, folder: Path, step: int, reason: str) -> NoReturn:
        self._on_rank_0(lambda: shutil.rmtree(folder, ignore_errors=True))
        kept = self.steps()
        left = f"step-{kept[-1]} is kept" if kept else "there is no earlier one"
        folder = self.root / f"step-{step}"
        raise TrainError(f"{folder}: cannot write the checkpoint ({reason}); {left}")

    def _on_rank_0(self, action: Callable[[], Any]) -> Any:
        """Every rank returns what `action` returned on rank 0, or raises what it raised there."""
        outcome: list[Any] = [None, None]
        if dist.get_rank() == 0:
            try:
                outcome[0] = action()
            except (OSError, InputError) as error:
                outcome[1] = error
        dist.broadcast_object_list(outcome, src=0, group=self._talking)
        if outcome[1]:
            raise outcome[1]
        return outcome[0]


def _reason(error: BaseException) -> str:
    """In a few words, from the first rank that failed."""
    if isinstance(error, CheckpointException):
        error = next(iter(error.failures.values()))[0]
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).strip().partition("\n")[0] or type(error).__name__
