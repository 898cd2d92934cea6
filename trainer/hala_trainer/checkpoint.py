"""checkpoints/step-N (everything exact resume needs) and final/ (a Hugging Face directory)."""

import json
import os
import shutil
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp

from hala_trainer.errors import TrainError
from hala_trainer.model import Trainee
from hala_trainer.packing import DataPosition

MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass
class Progress:
    """The scalars of a run's state. Tokens are real ones: padding is never counted."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0


def _state(trainee: Trainee, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    state = {"rng": torch.get_rng_state()}
    for name, master in trainee.masters.items():
        state[f"model.{name}"] = master.detach()
        moments = optimizer.state[master]
        for key in (*MOMENTS, "step"):
            state[f"optim.{key}.{name}"] = moments[key]
    return state


def save(
    root: Path,
    trainee: Trainee,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    position: DataPosition,
    keep: int,
) -> None:
    """Write checkpoints/step-N whole or not at all, then delete all but the last `keep`."""
    folder = root / f"step-{progress.step}"
    tmp = root / f"tmp-{os.getpid()}"
    shutil.rmtree(tmp, ignore_errors=True)
    tmp.mkdir(parents=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "no process group": right, there is one process
            dcp.save(_state(trainee, optimizer), checkpoint_id=tmp, no_dist=True)
        state = {"progress": asdict(progress), "data": asdict(position)}
        (tmp / "trainer.json").write_text(json.dumps(state))
        shutil.rmtree(folder, ignore_errors=True)
        tmp.rename(folder)
    except OSError as error:
        shutil.rmtree(tmp, ignore_errors=True)
        raise TrainError(f"{folder}: cannot save the checkpoint ({error.strerror})") from error
    for old in steps_saved(root)[:-keep]:
        shutil.rmtree(root / f"step-{old}", ignore_errors=True)


def steps_saved(root: Path) -> list[int]:
    names = [p.name.removeprefix("step-") for p in root.glob("step-*")]
    return sorted(int(n) for n in names if n.isdigit())


def restore(
    root: Path, trainee: Trainee, optimizer: torch.optim.Optimizer
) -> tuple[Progress, DataPosition]:
    """Load the newest checkpoint, if there is one, in place."""
    saved = steps_saved(root)
    if not saved:
        return Progress(), DataPosition()
    folder = root / f"step-{saved[-1]}"
    for master in trainee.masters.values():  # AdamW makes its state at the first step; make it now
        optimizer.state[master] = {
            "step": torch.zeros((), dtype=torch.float32),
            **{key: torch.zeros_like(master) for key in MOMENTS},
        }
    state = _state(trainee, optimizer)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.load(state, checkpoint_id=folder, no_dist=True)
    torch.set_rng_state(state["rng"])
    trainee.publish_masters()
    scalars = json.loads((folder / "trainer.json").read_text())
    return Progress(**scalars["progress"]), DataPosition(**scalars["data"])


def export(folder: Path, trainee: Trainee, tokenizer, dtype: str) -> None:
    """Write the weights, configuration, tokenizer and generation defaults for inference."""
    from transformers import GenerationConfig

    model, config = trainee.model, trainee.model.config
    state = {n: m.detach().to(getattr(torch, dtype)) for n, m in trainee.masters.items()}
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    model.generation_config = GenerationConfig(
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id if end in (None, tokenizer.unk_token_id) else end,
        pad_token_id=config.pad_token_id,
        do_sample=False,
    )
    tmp = folder.with_name(f"{folder.name}.tmp{os.getpid()}")
    try:
        model.save_pretrained(tmp, state_dict=state)
        tokenizer.save_pretrained(tmp, save_jinja_files=False)
        # save_pretrained records the dtype of the model in memory, not of what it was given.
        written = json.loads((tmp / "config.json").read_text())
        written["dtype"] = dtype
        (tmp / "config.json").write_text(json.dumps(written, indent=2) + "\n")
        for weights in tmp.glob("*.safetensors"):
            weights.chmod(0o644)  # safetensors leaves them readable by their owner alone
        shutil.rmtree(folder, ignore_errors=True)
        tmp.rename(folder)
    except OSError as error:
        raise TrainError(f"{folder}: cannot write the model ({error.strerror})") from error
    finally:
        shutil.rmtree(tmp, ignore_errors=True)
