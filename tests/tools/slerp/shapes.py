"""Small random pairs of checkpoints to merge, in Hugging Face form.

Neither torch nor `transformers` is needed. Values follow from the seed by sums, products and roots
of uniform numbers, so that no machine's logarithm or sine changes a bit of them.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from string import ascii_lowercase

import ml_dtypes
import numpy as np
import safetensors
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from tests.tools.slerp.layouts import Dims, config, small_dims, tensor_shapes

STORED = {
    "float32": ("F32", np.dtype(np.float32)),
    "float16": ("F16", np.dtype(np.float16)),
    "bfloat16": ("BF16", np.dtype(ml_dtypes.bfloat16)),
}
"""Name in configurations -> safetensors' name, numpy's dtype."""

SPREADS = (0.003, 0.01, 0.02, 0.04, 0.12, 0.5, 1.7)
"""Norm of the tuned model's noise over the base's, by tensor in turn: cosines from 0.99999 to 0.5.
The first three are above SLERP's threshold of 0.9995."""

SPECIAL = ("<unk>", "<pad>", "<bos>", "<eos>")


def write_pair(
    directory: Path,
    kind: str,
    *,
    seed: int,
    dtype: str = "bfloat16",
    tuned_dtype: str | None = None,
    layers: int = 4,
    hidden: int = 16,
    vocab: int = 32,
    tuned_vocab: int | None = None,
    base_shards: int = 1,
    tuned_shards: int = 1,
    zero_base: str | None = None,
    zero_tuned: str | None = None,
    identical: str | None = None,
    opposite: str | None = None,
    obtuse: str | None = None,
    subnormal: str | None = None,
) -> tuple[Path, Path]:
    """Writes and returns `directory`/base and `directory`/tuned, the base with noise.

    `kind`: a key of KINDS. `tuned_vocab`, at least `vocab`: the tuned model has more tokens. The
    last six name a tensor that is zero in one of the two, the same in both, exactly opposite, at
    an angle of some 150 degrees, or of subnormal values alone.
    """
    dims = small_dims(vocab, hidden, layers)
    tuned_dims = small_dims(tuned_vocab or vocab, hidden, layers)
    base, tuned = {}, {}
    for i, (name, shape) in enumerate(tensor_shapes(kind, tuned_dims).items()):
        random = np.random.default_rng((seed, i))
        mean, width = _distribution(kind, name)
        norm = math.sqrt(mean**2 + width**2 / 9)
        values = mean + width * _centred(random, shape)
        spread = 0.5 if name == obtuse else SPREADS[i % len(SPREADS)]
        noise = spread * 3 * norm * _centred(random, shape)
        if name == subnormal:
            smallest = float(ml_dtypes.finfo(STORED[dtype][1]).smallest_normal)
            values, noise = (part / norm * smallest / 8 for part in (values, noise))
        values = _rounded(values, dtype).astype(np.float64)
        if name in (identical, opposite):
            noise = np.zeros(shape)
        base[name] = np.zeros(shape) if name == zero_base else values
        turned = -values if name in (opposite, obtuse) else values
        tuned[name] = np.zeros(shape) if name == zero_tuned else turned + noise
    edges = {zero_base, zero_tuned, identical, opposite, obtuse, subnormal} - {None}
    if missing := edges - tuned.keys():
        raise KeyError(f"{kind} with {layers} layers has no {', '.join(sorted(missing))}")
    base = {name: base[name][: shape[0]] for name, shape in tensor_shapes(kind, dims).items()}
    write_checkpoint(directory / "base", kind, dims, base, dtype, base_shards)
    write_checkpoint(
        directory / "tuned", kind, tuned_dims, tuned, tuned_dtype or dtype, tuned_shards
    )
    return directory / "base", directory / "tuned"


def write_checkpoint(
    directory: Path,
    kind: str,
    dims: Dims,
    tensors: Mapping[str, np.ndarray],
    dtype: str = "bfloat16",
    shards: int = 1,
) -> None:
    """A new directory: `tensors`, rounded to `dtype`, in `shards` files, and `write_rest`."""
    directory.mkdir(parents=True)
    write_rest(directory, kind, dims, dtype)
    arrays = {name: _rounded(array, dtype) for name, array in tensors.items()}
    if shards == 1:
        return write_safetensors(directory / "model.safetensors", arrays)
    places = {}
    for i, names in enumerate(np.array_split(list(arrays), shards), 1):
        file = f"model-{i:05d}-of-{shards:05d}.safetensors"
        places |= {str(name): file for name in names}
        write_safetensors(directory / file, {str(name): arrays[name] for name in names})
    total = sum(array.nbytes for array in arrays.values())
    index = {"metadata": {"total_size": total}, "weight_map": places}
    _write_json(directory / "model.safetensors.index.json", index)


def write_rest(directory: Path, kind: str, dims: Dims, dtype: str = "bfloat16") -> None:
    """config.json, generation_config.json and the tokenizer, into a directory that exists."""
    settings = config(kind, dims, dtype)
    _write_json(directory / "config.json", settings)
    generation = {key: settings[key] for key in settings if key.endswith("_token_id")}
    _write_json(directory / "generation_config.json", generation)
    write_tokenizer(directory, dims.vocab)


def write_tokenizer(directory: Path, vocab: int) -> None:
    """A byte-level BPE: four special tokens, a, b, ..., aa, ab, ..., each merged of two before."""
    words, merges = list(ascii_lowercase), []
    for stem in words:  # it grows meanwhile
        room = max(0, vocab - len(SPECIAL) - len(words))
        merges += [(stem, letter) for letter in ascii_lowercase[:room]]
        words += [stem + letter for letter in ascii_lowercase[:room]]
        if not room:
            break
    tokens = [*SPECIAL, *words][:vocab]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.save(str(directory / "tokenizer.json"))
    settings = {f"{token[1:-1]}_token": token for token in SPECIAL}
    settings |= {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 512}
    _write_json(directory / "tokenizer_config.json", settings)


def write_safetensors(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """By hand: how the package takes bfloat16 from numpy depends on its version."""
    stored = {dtype: name for name, dtype in STORED.values()}
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, array in tensors.items():
        place = [end, end := end + array.nbytes]
        spec = {"dtype": stored[array.dtype], "shape": array.shape, "data_offsets": place}
        header[name] = spec
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    data = (array.tobytes() for array in tensors.values())
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(data))


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a safetensors file, or of all in a directory, in order of their names."""
    dtypes = dict(STORED.values())
    found = {}
    for file in path.glob("*.safetensors") if path.is_dir() else [path]:
        for name, spec in safetensors.deserialize(file.read_bytes()):
            array = np.frombuffer(bytes(spec["data"]), dtypes[spec["dtype"]])
            found[name] = array.reshape(spec["shape"])
    return dict(sorted(found.items()))


def fingerprint(directory: Path) -> str:
    """sha256 of the tensors, names, dtypes and shapes, however they are spread over files."""
    digest = hashlib.sha256()
    for name, array in read_tensors(directory).items():
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode() + array.tobytes())
    return digest.hexdigest()


def _distribution(kind: str, name: str) -> tuple[float, float]:
    """Mean of a tensor's values, and half of their range."""
    if name.endswith("norm.weight"):
        return (0.0 if kind == "gemma2" else 1.0), 0.6  # Gemma2's are offsets from 1
    return 0.0, 0.3 if name.endswith(".bias") else 0.1


def _centred(random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Between -1 and 1, and denser about 0; the variance is 1/9."""
    return (2 * random.random(shape) - 1) * random.random(shape)


def _rounded(values: np.ndarray, dtype: str) -> np.ndarray:
    return values.astype(np.float32).astype(STORED[dtype][1])


def _write_json(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")
