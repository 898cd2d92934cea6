"""A model as a Hugging Face directory, streamed to the disk tensor by tensor.

Each tensor is cast on its shards, gathered, and written by rank 0 while nothing else of the model
is held in full. So a model larger than any one device can be exported, and the files do not depend
on the number of ranks.
"""

import json
import os
import shutil
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from hala_engine.weights import writer
from hala_engine.weights.checkpoint import INDEX
from hala_engine.weights.writer import SafetensorsWriter, TensorSpec
from hala_trainer.errors import InputError, TrainError

SHARD_BYTES = 5 * 10**9
DTYPE_NAMES = {dtype: name for name, dtype in writer.DTYPES.items()}
METADATA = {"format": "pt"}  # transformers asks for it


def export(
    folder: Path,
    parameters: dict[str, torch.Tensor],
    config: Any,
    tokenizer: Any,
    dtype: str,
    generation: Any = None,
) -> None:
    """Write `folder` whole or not at all, in place of one that is there. For all ranks together.

    parameters: DTensors or plain tensors by their names in a Hugging Face checkpoint; a tensor with
    two names (tied weights) is written under the first. config: the model's, of transformers.
    generation: the GenerationConfig of the model that training began with, if it has one. dtype:
    bfloat16, float16 or float32. Raises TrainError when the disk does not take it, and for a tensor
    that is not finite or beyond float16's range.
    """
    first = dist.get_rank() == 0
    tensors = _distinct(parameters)
    gathered = _gathered(tensors, getattr(torch, dtype))
    partial = folder.with_name(f"{folder.name}.partial")
    problem: list[str | None] = [None]
    try:
        if first:
            shutil.rmtree(partial, ignore_errors=True)  # of a killed run
            partial.mkdir(parents=True)
            _write_json(partial / "config.json", config_of(config, dtype))
            settings = generation_of(generation, config, tokenizer)
            _write_json(partial / "generation_config.json", settings)
            _write_tokenizer(partial, tokenizer)
            _write_weights(partial, _plan(tensors, getattr(torch, dtype)), gathered)
            _appear(partial, folder)
    except OSError as error:
        problem[0] = error.strerror or str(error)
    finally:
        if first:
            shutil.rmtree(partial, ignore_errors=True)
    # The other ranks have their part in it, and so has rank 0 after a failure.
    deque(gathered, maxlen=0)
    dist.broadcast_object_list(problem, src=0)
    if problem[0]:
        raise TrainError(f"{folder}: cannot write the model ({problem[0]})")


def base_generation(folder: Path) -> Any:
    """The GenerationConfig of a model directory, None if it has none."""
    from transformers import GenerationConfig

    if not (folder / "generation_config.json").is_file():
        return None
    try:
        return GenerationConfig.from_pretrained(folder)
    except Exception as error:  # whatever the damage led to
        raise InputError(f"{folder}: unusable generation_config.json ({error})") from None


def config_of(config: Any, dtype: str) -> dict[str, Any]:
    """config.json of a model whose weights are plain and of `dtype`."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    written = json.loads(config.to_json_string())
    architectures = config.architectures or [MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[config.model_type]]
    return written | {"architectures": architectures, "dtype": dtype}


def generation_of(generation: Any, config: Any, tokenizer: Any) -> dict[str, Any]:
    """generation_config.json: the base model's settings, or greedy decoding if it has none; the end
    of a turn, as the chat template writes it, ends generation beside the model's own end tokens."""
    from transformers import GenerationConfig

    if generation is None:
        generation = GenerationConfig(
            bos_token_id=config.bos_token_id, pad_token_id=config.pad_token_id, do_sample=False
        )
    ends = [end_of_turn(tokenizer)]
    for of_model in (generation.eos_token_id, config.eos_token_id):
        ends += of_model if isinstance(of_model, list) else [of_model]
    distinct = list(dict.fromkeys(end for end in ends if end is not None))
    written = json.loads(generation.to_json_string())
    if distinct:
        written["eos_token_id"] = distinct if len(distinct) > 1 else distinct[0]
    return written


def end_of_turn(tokenizer: Any) -> int | None:
    """The special token that the chat template writes after an answer; None if it writes none."""
    if not tokenizer.chat_template:
        return None
    answer = "\ue000"
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": answer}]
    text = tokenizer.apply_chat_template(turns, tokenize=False).rpartition(answer)[2]
    special = {t.content: i for i, t in tokenizer.added_tokens_decoder.items() if t.special}
    found = [token for token in special if token in text]
    return special[min(found, key=text.index)] if found else None


def _distinct(parameters: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    seen: set[int] = set()
    return {n: p for n, p in parameters.items() if not (id(p) in seen or seen.add(id(p)))}


def _gathered(
    parameters: dict[str, torch.Tensor], dtype: torch.dtype
) -> Iterator[tuple[str, torch.Tensor]]:
    """Each tensor in full, in `dtype`; every rank must come to the end of it."""
    for name, parameter in parameters.items():
        full = parameter.detach().to(dtype)
        if isinstance(full, DTensor):
            full = full.full_tensor()
        if not torch.stack(full.aminmax()).isfinite().all():
            largest = parameter.detach().abs().max()
            largest = largest.full_tensor() if isinstance(largest, DTensor) else largest
            reason = "values that are not finite"
            if largest.isfinite():
                reason = f"{largest:g}, which {dtype} cannot hold; take another final_dtype"
            raise TrainError(f"the model cannot be exported: {name} holds {reason}")
        yield name, full


def _plan(
    parameters: dict[str, torch.Tensor], dtype: torch.dtype
) -> dict[str, dict[str, TensorSpec]]:
    """The tensors of each file, by the file's name; in the order of `parameters`."""
    files: list[dict[str, TensorSpec]] = [{}]
    size = 0
    for name, parameter in parameters.items():
        spec = TensorSpec(DTYPE_NAMES[dtype], tuple(parameter.shape))
        if files[-1] and size + spec.bytes > SHARD_BYTES:
            files.append({})
            size = 0
        files[-1][name] = spec
        size += spec.bytes
    if len(files) == 1:
        return {"model.safetensors": files[0]}
    return {
        f"model-{i:05}-of-{len(files):05}.safetensors": specs for i, specs in enumerate(files, 1)
    }


def _write_weights(
    folder: Path,
    files: dict[str, dict[str, TensorSpec]],
    gathered: Iterator[tuple[str, torch.Tensor]],
) -> None:
    for file, specs in files.items():
        with SafetensorsWriter(folder / file, specs, METADATA) as shard:
            for _ in specs:
                _write_tensor(shard, *next(gathered))
    if len(files) > 1:
        places = {name: file for file, specs in files.items() for name in specs}
        size = sum(spec.bytes for specs in files.values() for spec in specs.values())
        index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(places.items()))}
        _write_json(folder / INDEX, index)


def _write_tensor(shard: SafetensorsWriter, name: str, full: torch.Tensor) -> None:
    data = full.cpu().contiguous().reshape(-1).view(torch.uint8)
    shard.write(name, memoryview(data.numpy()))


def _write_tokenizer(folder: Path, tokenizer: Any) -> None:
    try:
        tokenizer.save_pretrained(folder, save_jinja_files=False)
    except OSError:
        raise
    except Exception as error:  # tokenizers raises nothing narrower for a full disk
        raise OSError(str(error)) from None


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _appear(partial: Path, folder: Path) -> None:
    """`partial` takes the name of `folder`, once it is on the disk."""
    for path in (*partial.iterdir(), partial):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
