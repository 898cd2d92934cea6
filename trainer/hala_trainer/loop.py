"""The list of things a step does, and the loop over them."""

import math
import signal
import time

import torch

from hala_trainer import checkpoint
from hala_trainer.errors import Stopped, TrainError
from hala_trainer.log import clock
from hala_trainer.model import batch_loss
from hala_trainer.optim import clip_gradients, learning_rate
from hala_trainer.packing import in_order
from hala_trainer.run import Run


class StopFlag:
    """SIGINT or SIGTERM is a wish to stop, which the loop grants between two steps."""

    def __init__(self):
        self.signum = 0
        for s in (signal.SIGINT, signal.SIGTERM):
            signal.signal(s, self._asked)

    def _asked(self, signum, _frame) -> None:
        self.signum = signum


def train_step(run: Run) -> dict:
    """One optimizer step. The loss is a mean over the real supervised tokens of the whole step."""
    r, step = run.recipe, run.progress.step + 1
    batches = run.rows.next_step(r.train.rows, r.train.accumulate)
    supervised = sum(int(b.supervised.sum()) for b in batches)
    loss = 0.0
    for batch in batches:
        batch_mean = batch_loss(run.trainee, batch) / max(supervised, 1)
        batch_mean.backward()
        run.trainee.collect_gradients()
        loss += batch_mean.item()
    if not math.isfinite(loss):
        raise TrainError(f"step {step}: the loss is {loss}; the last checkpoint is kept")
    masters = list(run.trainee.masters.values())
    grad_norm = clip_gradients(masters, r.optim.clip)
    lr = learning_rate(step, run.total_steps, r.optim)
    for group in run.optimizer.param_groups:
        group["lr"] = lr
    run.optimizer.step()
    run.optimizer.zero_grad()
    run.trainee.publish_masters()
    run.progress.step = step
    tokens = sum(b.real_tokens for b in batches)
    run.progress.tokens += tokens
    return {"step": step, "loss": loss, "lr": lr, "grad_norm": grad_norm, "tokens": tokens}


@torch.no_grad()
def evaluate(run: Run) -> float:
    """Mean cross-entropy over the supervised tokens of the evaluation documents."""
    r, loss, count = run.recipe, 0.0, 0
    for batch in in_order(run.eval_docs, r.train.rows, r.data.seq_len, run.rows.pad):
        loss += batch_loss(run.trainee, batch).item()
        count += int(batch.supervised.sum())
    return loss / max(count, 1)


def train(run: Run) -> None:
    """Step to the end, or until a signal; either way everything trained is saved."""
    r, progress = run.recipe, run.progress
    stop = StopFlag()
    mark, mark_tokens, speed = time.monotonic(), progress.tokens, None

    def save() -> None:
        checkpoint.save(
            r.out / "checkpoints",
            run.trainee,
            run.optimizer,
            progress,
            run.rows.position,
            r.checkpoint.keep,
        )

    while progress.step < run.total_steps:
        row = train_step(run)
        last = progress.step == run.total_steps
        if progress.step % r.log.every == 0 or last:
            spent = time.monotonic() - mark
            progress.seconds += spent
            now = (progress.tokens - mark_tokens) / spent
            speed = now if speed is None else 0.8 * speed + 0.2 * now  # for the ETA
            tokens_left = (run.total_steps - progress.step) * row["tokens"]
            row |= {"tokens": progress.tokens, "tokens_per_s": round(now, 1)}
            run.log.step(row, run.total_steps, tokens_left / speed)
            mark, mark_tokens = time.monotonic(), progress.tokens
        if run.eval_docs and (last or (r.log.eval_every and progress.step % r.log.eval_every == 0)):
            began = time.monotonic()
            loss = evaluate(run)
            run.log.metrics({"step": progress.step, "eval_loss": loss})
            run.log.say(f"step {progress.step}  eval loss {loss:.4f}")
            mark += time.monotonic() - began
        if last or stop.signum or progress.step % r.checkpoint.every == 0:
            began = time.monotonic()
            save()
            mark += time.monotonic() - began
        if stop.signum and not last:
            run.log.say(f"stopped after step {progress.step}; the same command goes on from there")
            raise Stopped(stop.signum)
    checkpoint.export(r.out / "final", run.trainee, run.tokenizer, r.checkpoint.final_dtype)
    run.log.say(
        f"done: {progress.step:,} steps, {progress.tokens:,} tokens in "
        f"{clock(progress.seconds)}; model in {r.out / 'final'}"
    )
