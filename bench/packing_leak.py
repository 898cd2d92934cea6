"""`python -m bench.packing_leak`: what packing does to the loss and the gradients, by who packs.

The shipped translator, an LFM2, meets held-out pairs of its own corpus, and a Gemma2 with random
weights the same tokens. The measure of all is `transformers` on each document alone. Against it, in
float32, where rounding is some 1e-6:

ours             rows of hala-train
stock            `DataCollatorWithFlattening`, whose position ids restart at each document;
                 TRL's padding-free batches are the same
stock + seq_idx  that collator with `return_seq_idx=True`, which numbers the documents
stock + mask     the same tokens with an attention mask of ones, which collators that pad add:
                 `transformers` then no longer looks for restarts in the position ids
one text         documents chained as if they were one, as plain pre-training scripts do

Position ids suffice for an attention mask. The short convolution has none: only the CUDA package
`causal_conv1d` resets its state, and only if given seq_idx. Without that package transformers 5.17
drops seq_idx without a word, and 5.23 refuses it.

`--json FILE` keeps one entry for each version of transformers.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
import typer
from rich.console import Console
from rich.table import Table

from bench import machine
from hala_tools.miniature.score import drawn_heldout
from hala_trainer.config import ModelConfig
from hala_trainer.data.documents import Corpus, Documents
from hala_trainer.data.order import in_order
from hala_trainer.model import loading
from hala_trainer.model.packed import Inputs

SHIPPED = Path(__file__).resolve().parent.parent / "hala_engine/assets/hala-mini-en-ar"
PROMPT = "Translate from English to Arabic: {text}"
SEQ_LEN = 128  # tokens of a row: the context of the shipped model
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

Gradients = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Leak:
    """Relative differences from every document alone; None where packing was refused."""

    model: str
    packing: str
    loss: float | None = None
    gradient: float | None = None  # of all gradients as one vector
    worst_gradient: float | None = None  # of a parameter's
    worst_parameter: str | None = None
    refused: str | None = None


@app.command(help=__doc__)
def main(
    pairs: Annotated[int, typer.Option(help="Held-out pairs.")] = 64,
    json_file: Annotated[Path | None, typer.Option("--json", help="Add the figures.")] = None,
) -> None:
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    torch.set_num_threads(1)
    docs = documents(drawn_heldout(), pairs)
    with tempfile.TemporaryDirectory() as folder:
        found = [
            *leaks("LFM2, the shipped translator", SHIPPED, docs),
            *leaks("Gemma2, random weights", random_gemma2(Path(folder)), docs),
        ]
    show(found)
    if json_file:
        save(json_file, found, {"documents": len(docs), "tokens": int(docs.lengths.sum())})


def random_gemma2(folder: Path) -> Path:
    """A small one, beside the shipped tokenizer, whose window is shorter than most documents."""
    from transformers import Gemma2Config, Gemma2ForCausalLM

    tokenizer = loading.load_tokenizer(SHIPPED)
    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        query_pre_attn_scalar=32,
        sliding_window=16,
        initializer_range=0.1,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    Gemma2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def documents(pairs: list[tuple[str, str]], number: int) -> Documents:
    """Prompt and translation of `number` of them; the translation and its end are learnt."""
    tokenizer = loading.load_tokenizer(SHIPPED)
    ids, learnt, offsets = [], [], [0]
    for english, arabic in pairs[:: max(1, len(pairs) // number)][:number]:
        asked = tokenizer.apply_chat_template(
            [{"role": "user", "content": PROMPT.format(text=english)}],
            add_generation_prompt=True,
            return_dict=False,
        )
        answer = [*tokenizer.encode(arabic, add_special_tokens=False), tokenizer.eos_token_id]
        if len(asked) + len(answer) > SEQ_LEN:
            continue
        ids += asked + answer
        learnt += [False] * len(asked) + [True] * len(answer)
        offsets.append(len(ids))
    return Documents(np.array(ids, np.uint32), np.array(learnt), np.array(offsets))


def leaks(name: str, path: Path, docs: Documents) -> list[Leak]:
    """A line for each way of packing."""
    alone = differentiate(path, lambda model: each_alone(model, docs))
    found = [leak(name, "ours", alone, ours(path, docs))]
    for packing, rows in stock_rows(docs).items():
        try:
            packed = differentiate(path, lambda model, rows=rows: stock_loss(model, rows))
            found.append(leak(name, packing, alone, packed))
        except ValueError as refusal:
            found.append(Leak(name, packing, refused=str(refusal)))
    return found


def leak(name: str, packing: str, alone: tuple, packed: tuple) -> Leak:
    (loss, gradients), (packed_loss, packed_gradients) = alone, packed
    gaps = {n: (packed_gradients[n] - g).norm() for n, g in gradients.items()}
    norms = {n: g.norm() for n, g in gradients.items()}
    worst = max(gaps, key=lambda n: gaps[n] / norms[n])
    total = torch.stack([*gaps.values()]).norm() / torch.stack([*norms.values()]).norm()
    return Leak(
        name,
        packing,
        abs(packed_loss / loss - 1),
        total.item(),
        (gaps[worst] / norms[worst]).item(),
        worst,
    )


def differentiate(path: Path, loss_of: Callable) -> tuple[float, Gradients]:
    """Loss and gradients of the model at `path` as transformers loads it."""
    from transformers import AutoConfig, AutoModelForCausalLM

    # What each is trained with: Gemma2's soft-cap needs eager attention.
    kind = AutoConfig.from_pretrained(path).model_type
    attention = "eager" if kind == "gemma2" else "sdpa"
    model = AutoModelForCausalLM.from_pretrained(
        path, dtype=torch.float32, attn_implementation=attention
    ).train()
    loss = loss_of(model)
    loss.backward()
    return loss.item(), {n: p.grad for n, p in model.named_parameters()}


def each_alone(model: torch.nn.Module, docs: Documents) -> torch.Tensor:
    """Cross-entropy summed over the supervised tokens."""
    total = torch.zeros(())
    for i in range(len(docs)):
        ids, learnt = docs.get(i)
        ids, learnt = torch.from_numpy(ids.astype(np.int64)), torch.from_numpy(learnt)
        logits = model(input_ids=ids[None], use_cache=False).logits[0]
        targets = torch.where(learnt, ids, -100)[1:]  # -100 is not counted
        total = total + F.cross_entropy(logits[:-1], targets, reduction="sum")
    return total


def ours(path: Path, docs: Documents) -> tuple[float, Gradients]:
    model = loading.build(loading.load_config(path), "float32")
    loading.fill(model, path, ModelConfig(path=str(path)), torch.device("cpu"))
    batches = in_order(Corpus([docs]), 1, SEQ_LEN, pad=0)
    loss = sum(model(Inputs.of(batch, torch.device("cpu"))) for batch in batches)
    loss.backward()
    return loss.item(), {n: p.grad for n, p in model.named_parameters()}


def stock_rows(docs: Documents) -> dict[str, list[dict[str, torch.Tensor]]]:
    """Rows [1, up to SEQ_LEN] of neighbouring documents, as each collator would make them."""
    from transformers import DataCollatorWithFlattening

    rows, room = [], 0
    for i, length in enumerate(docs.lengths):
        if length > room:
            rows.append([])
            room = SEQ_LEN
        ids, learnt = docs.get(i)
        ids = ids.astype(np.int64)
        rows[-1].append({"input_ids": ids, "labels": np.where(learnt, ids, -100)})
        room -= length
    flatten = DataCollatorWithFlattening(return_tensors="pt")
    number = DataCollatorWithFlattening(return_tensors="pt", return_seq_idx=True)
    stock = [dict(flatten(row)) for row in rows]
    masked = [row | {"attention_mask": torch.ones_like(row["input_ids"])} for row in stock]
    chained = [{key: v for key, v in row.items() if key != "position_ids"} for row in masked]
    return {
        "stock": stock,
        "stock + seq_idx": [dict(number(row)) for row in rows],
        "stock + mask": masked,
        "one text": chained,
    }


def stock_loss(model: torch.nn.Module, rows: list[dict[str, torch.Tensor]]) -> torch.Tensor:
    total = torch.zeros(())
    for row in rows:
        given = {key: value for key, value in row.items() if key != "labels"}
        logits = model(**given, use_cache=False).logits[0, :-1]
        total = total + F.cross_entropy(logits, row["labels"][0, 1:], reduction="sum")
    return total


def show(found: list[Leak]) -> None:
    import transformers

    title = f"off from each document alone, transformers {transformers.__version__}"
    table = Table("model", "packing", "loss", "gradient", "of the worst parameter", title=title)
    for row in found:
        if row.refused:
            table.add_row(row.model, row.packing, "refused", "", "")
            continue
        figures = (row.loss, row.gradient, row.worst_gradient)
        table.add_row(row.model, row.packing, *(f"{value:.1e}" for value in figures))
    Console().print(table)


def save(file: Path, found: list[Leak], data: dict) -> None:
    versions = machine.versions()
    runs = json.loads(file.read_text())["runs"] if file.exists() else {}
    runs[versions["transformers"]] = {
        **machine.commit(),
        "versions": versions,
        "cpu": machine.cpu(),
        "data": data,
        "results": [asdict(row) for row in found],
    }
    file.write_text(json.dumps({"runs": dict(sorted(runs.items()))}, indent=2) + "\n")


if __name__ == "__main__":
    app()
