"""What is done with a model in training besides training it: its loss on held-out documents, its
answers to held-out prompts, and its weights as a Hugging Face directory."""

import shutil
from itertools import chain, islice
from pathlib import Path

import torch
from torch.distributed.fsdp import FSDPModule

from hala_trainer.config import Recipe
from hala_trainer.data.order import in_order
from hala_trainer.data.rows import FileRows, Message, data_files
from hala_trainer.errors import TrainError
from hala_trainer.model.packed import Inputs
from hala_trainer.run import Run
from hala_trainer.saving.export import export


@torch.no_grad()
def evaluate(run: Run) -> float:
    """Mean cross-entropy over the supervised tokens of the held-out documents."""
    r, p = run.recipe, run.processes
    total, supervised = torch.zeros((), device=p.device), 0
    for batch in in_order(
        run.held_out, r.train.micro_batch, r.data.seq_len, run.rows.pad, p.rank, p.world
    ):
        total += run.model(Inputs.of(batch, p.device))
        supervised += int(batch.supervised.sum())
    for module in run.model.modules():  # no backward pass has freed what was gathered
        if isinstance(module, FSDPModule):
            module.reshard()
    loss, count = p.sums(total.item(), supervised)
    return loss / max(count, 1)


def save_model(run: Run, folder: Path) -> None:
    """Write the model to `folder` whole or not at all, for `transformers` and the engine."""
    export(
        folder,
        run.parameters,
        run.model.config,
        run.tokenizer,
        run.recipe.checkpoint.final_dtype,
        run.generation,
    )


def held_out_prompts(recipe: Recipe) -> tuple[list[list[Message]], list[str]]:
    """The first log.samples conversations of the eval data up to their last answer, and those."""
    files = ((file, s) for s in recipe.data.eval for file in data_files(Path(s.path)))
    rows = chain.from_iterable(FileRows(file, source) for file, source in files)
    prompts, expected = [], []
    for _, messages in islice(rows, recipe.log.samples):
        last = max(i for i, message in enumerate(messages) if message["role"] == "assistant")
        prompts.append(messages[:last])
        expected.append(messages[last]["content"])
    return prompts, expected


def write_samples(run: Run) -> None:
    """Answer the first held-out prompts with the model as it is, through the engine."""
    r, p = run.recipe, run.processes
    if not r.log.samples:
        return
    from hala_trainer.samples import sample

    folder = r.out / "samples.partial"
    try:
        save_model(run, folder)
    except TrainError as error:
        run.log.say(f"no samples of step {run.progress.step}: {error}")  # they are worth no run
        return
    if p.rank == 0:
        prompts, expected = held_out_prompts(r)
        try:
            first = sample(
                folder,
                prompts,
                expected,
                r.log.sample_tokens,
                p.device.type,
                run.progress.step,
                r.out / "samples.jsonl",
            )
            if first:
                run.log.say(f"step {run.progress.step}  sample: {first['answer']!r}")
                run.log.text("sample", first["answer"] or "", run.progress.step)
        except TrainError as error:
            run.log.say(str(error))
        shutil.rmtree(folder, ignore_errors=True)
    p.barrier()
