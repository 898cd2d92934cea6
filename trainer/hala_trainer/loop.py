"""The list of things a step does, and the loop over them."""

import signal
import time

import torch
import torch.distributed as dist

from hala_trainer.errors import Stopped, TrainError
from hala_trainer.evaluation import evaluate, save_model, write_samples
from hala_trainer.log import clock
from hala_trainer.model.packed import Inputs
from hala_trainer.optim import clip, gradient_norm, learning_rate
from hala_trainer.run import Run


class StopFlag:
    """SIGINT or SIGTERM is a wish to stop, which the loop grants between two steps, once all
    processes know of it."""

    def __init__(self):
        self.signum = 0
        self.agreed = False
        for s in (signal.SIGINT, signal.SIGTERM):
            signal.signal(s, self._asked)

    def _asked(self, signum, _frame) -> None:
        self.signum = signum


def train_step(run: Run, stop: StopFlag) -> dict:
    """One optimizer step. The loss is the mean over the supervised tokens of all micro-batches of
    all processes; their number is known before the first backward pass."""
    r, p, step = run.recipe, run.processes, run.progress.step + 1
    batches = run.rows.next_step(r.train.global_batch, r.train.micro_batch, p.rank, p.world)
    supervised, tokens, slots, flops, stopping = p.sums(
        sum(int(b.supervised.sum()) for b in batches),
        sum(b.real_tokens for b in batches),
        sum(b.ids.size for b in batches),
        sum(run.flops.step(b.lengths, int(b.supervised.sum())) for b in batches),
        bool(stop.signum),
    )
    stop.agreed = stopping > 0
    total = torch.zeros((), device=p.device)
    for batch in batches:
        if not r.train.reshards(p.world):  # what was gathered serves all passes of a step
            run.model.set_reshard_after_backward(batch is batches[-1])
        loss = run.model(Inputs.of(batch, p.device))
        # FSDP averages over the processes: times their number it is a sum.
        (loss * (p.world / max(supervised, 1))).backward()
        total += loss.detach()
    dist.all_reduce(total)
    masters = list(run.parameters.values())
    norm = gradient_norm(masters)
    loss, grad_norm = torch.stack([total / max(supervised, 1), norm]).tolist()
    fault = run.health.fault(step, loss, grad_norm)
    lr = learning_rate(step, run.total_steps, r.optim)
    if fault is None:
        if r.optim.clip:
            clip(masters, r.optim.clip, norm)
        for group in run.optimizer.param_groups:
            group["lr"] = lr
        run.optimizer.step()
    else:
        run.log.say(f"step {step}: skipped, {fault}")
    run.optimizer.zero_grad()
    run.progress.step = step
    run.progress.tokens += int(tokens)
    run.meter.add(int(tokens), int(slots), flops)
    row = {"step": step, "loss": loss, "lr": lr, "grad_norm": grad_norm}
    return row if fault is None else row | {"skipped": fault}


def train(run: Run) -> None:
    """Step to the end, or until a signal; either way everything trained is saved."""
    r, progress, total = run.recipe, run.progress, run.total_steps
    stop = StopFlag()
    began, before = time.monotonic(), progress.seconds

    def due(every: int) -> bool:
        return progress.step == total or (every > 0 and progress.step % every == 0)

    while progress.step < total:
        try:
            row = train_step(run, stop)
        except TrainError:
            run.checkpoints.wait()  # the one in progress is of good weights
            raise
        progress.seconds = before + time.monotonic() - began
        if due(r.log.every) or "skipped" in row:
            row |= {"tokens": progress.tokens} | run.meter.read()
            run.log.step(row, total, run.meter.seconds_left(total - progress.step))
        with run.meter.paused():
            if run.held_out and due(r.log.eval_every):
                loss = evaluate(run)
                run.log.metrics({"step": progress.step, "eval_loss": loss})
                run.log.say(f"step {progress.step}  eval loss {loss:.4f}")
                write_samples(run)
            if stop.agreed or due(r.checkpoint.every):
                run.checkpoints.save(run.state(), progress.step)
            run.checkpoints.poll()
        if stop.agreed and progress.step < total:
            run.checkpoints.wait()
            run.log.say(f"stopped after step {progress.step}; the same command goes on from there")
            raise Stopped(stop.signum or signal.SIGTERM)
    run.checkpoints.wait()
    save_model(run, r.out / "final")
    run.log.say(
        f"done: {progress.step:,} steps, {progress.tokens:,} tokens in "
        f"{clock(progress.seconds)}; model in {r.out / 'final'}"
    )
