"""Models that cannot be merged: one line that says what, where and how to mend it, and nothing left
behind."""

import json
import math
import os
import shutil

import pytest

from hala_tools.slerp import job
from tests.tools.slerp.commands import Pair, Stored, edit_json, edited, run_here
from tests.tools.slerp.shapes import read_tensors, write_pair

EMBEDDING, OUTPUT = "model.embed_tokens.weight", "lm_head.weight"
MATRIX = "model.layers.1.self_attn.k_proj.weight"
NORM = "model.layers.1.input_layernorm.weight"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"

SIDES = pytest.mark.parametrize("side", ["base", "tuned"])


# Tensors that do not fit.


@pytest.mark.parametrize(
    ("name", "shape"),
    [(MATRIX, (16, 8)), (MATRIX, (128,)), (MATRIX, (8, 16, 1)), (NORM, (1,)), (NORM, ())],
)
@SIDES
def test_shapes_that_differ(pair, refused, side, name, shape):
    """Also those that broadcast."""
    with edited(pair.model(side)) as tensors:
        tensors[name] = Stored("BF16", shape, bytes(2 * math.prod(shape)))
    message = refused(pair)
    assert f"tensor {name} has shape" in message
    assert all(str(list(s)) in message for s in (shape, read_tensors(pair.base)[name].shape))
    assert all(str(model / WEIGHTS) in message for model in (pair.base, pair.tuned))


@SIDES
@pytest.mark.parametrize("others", [0, 3])
def test_tensor_that_one_model_lacks(pair, refused, side, others):
    with edited(pair.model(side)) as tensors:
        for name in [MATRIX, *[n for n in tensors if n != MATRIX and "layers.1" in n][:others]]:
            del tensors[name]
    message = refused(pair)
    assert message.startswith(f"{pair.model(side)} lacks the tensor ")
    assert (MATRIX in message) if not others else (" and 3 more that " in message)


@SIDES
def test_tensor_of_one_model_alone(pair, refused, side):
    with edited(pair.model(side)) as tensors:
        tensors["model.layers.0.extra.weight"] = Stored("BF16", (2,), bytes(4))
    other = pair.model("tuned" if side == "base" else "base")
    assert refused(pair).startswith(f"{other} lacks the tensor model.layers.0.extra.weight that ")


@pytest.mark.parametrize(
    ("first", "second"), [("I64", "BF16"), ("BF16", "I64"), ("I64", "F64"), ("I64", "U64")]
)
def test_kinds_of_dtype_that_do_not_match(pair, refused, first, second):
    for model, dtype in ((pair.base, first), (pair.tuned, second)):
        with edited(model) as tensors:
            size = 2 if dtype == "BF16" else 8
            tensors["steps"] = Stored(dtype, (2,), bytes(2 * size))
    message = refused(pair)
    assert f"tensor steps has dtype {first} in {pair.base / WEIGHTS} and {second} in" in message


@SIDES
@pytest.mark.parametrize(
    ("dtype", "bits"), [("F8_E4M3", 8), ("F8_E5M2", 8), ("F8_E8M0", 8), ("F4", 4)]
)
def test_eight_bits_and_fewer_are_to_be_quantized_after_the_merge(pair, refused, side, dtype, bits):
    with edited(pair.model(side)) as tensors:
        tensors[MATRIX] = Stored(dtype, (8, 16), bytes(128 * bits // 8))
    message = refused(pair)
    assert f"{pair.model(side) / WEIGHTS}: tensor {MATRIX} has dtype {dtype}" in message
    assert message.endswith("merge the unquantized checkpoints, then quantize the result")


@SIDES
def test_quantized_model_is_to_be_quantized_after_the_merge(pair, refused, side):
    path = pair.model(side) / "config.json"
    edit_json(path, quantization_config={"quant_method": "compressed-tensors"})
    message = refused(pair)
    assert message.startswith(f"{path} has a quantization_config")
    assert message.endswith("merge the unquantized checkpoints, then quantize the result")


def test_complex_numbers_are_not_merged(pair, refused):
    with edited(pair.base) as tensors:
        tensors["phase"] = Stored("C64", (2,), bytes(16))
    assert "tensor phase has dtype C64; those that can be merged are F64, F32" in refused(pair)


# Embeddings that the output projection shares.


@SIDES
def test_output_projection_that_is_the_tied_embedding_is_dropped(tied, capfd, side):
    with edited(tied.model(side)) as tensors:
        tensors[OUTPUT] = tensors[EMBEDDING]
    done = run_here(capfd, *tied.paths)
    assert (done.code, done.err) == (0, "")
    assert OUTPUT not in read_tensors(tied.out)


@SIDES
@pytest.mark.parametrize("said", [{}, {"tie_embedding": True}])
def test_output_projection_that_is_the_embedding_where_that_is_not_spelled_out(
    tied, capfd, side, said
):
    """As in LFM2's own configuration; the other model, which has none, can but tie it."""
    for model in (tied.base, tied.tuned):
        edit_json(model / "config.json", tie_word_embeddings=None, **said)
    with edited(tied.model(side)) as tensors:
        tensors[OUTPUT] = tensors[EMBEDDING]
    done = run_here(capfd, *tied.paths)
    assert (done.code, done.err) == (0, "")
    assert OUTPUT not in read_tensors(tied.out)


@SIDES
@pytest.mark.parametrize("dtype", ["BF16", "F16"])
def test_output_projection_that_differs_from_the_tied_embedding(tied, refused, side, dtype):
    with edited(tied.model(side)) as tensors:
        size = len(tensors[EMBEDDING].data)
        tensors[OUTPUT] = tensors[EMBEDDING]._replace(dtype=dtype, data=bytes(size))
    message = refused(tied)
    assert message.startswith(f"{tied.model(side) / WEIGHTS}: tensor {OUTPUT} differs from")
    assert "set tie_word_embeddings to false" in message


@SIDES
def test_tied_and_untied_models(pair, refused, side):
    with edited(pair.model(side)) as tensors:
        del tensors[OUTPUT]
    edit_json(pair.model(side) / "config.json", tie_word_embeddings=True)
    message = refused(pair)
    assert f"({OUTPUT}), {pair.model(side)} ties it to the embedding; untie it there" in message


# Directories that are no models, or not whole.


@SIDES
@pytest.mark.parametrize("config", [True, False])
def test_adapters_are_to_be_merged_into_their_model_first(pair, refused, side, config):
    """With a config.json too; peft writes none."""
    model = pair.model(side)
    (model / WEIGHTS).rename(model / "adapter_model.safetensors")
    (model / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    if not config:
        (model / "config.json").unlink()
    message = refused(pair)
    assert message.startswith(f"{model} is a LoRA adapter; merge it into its model first")


@SIDES
def test_weights_of_pytorch_are_to_be_converted(pair, refused, side):
    (pair.model(side) / WEIGHTS).rename(pair.model(side) / "pytorch_model.bin")
    message = refused(pair)
    assert message.startswith(f"{pair.model(side)} has no safetensors files; convert its weights")


@SIDES
@pytest.mark.parametrize("length", [-1, 1000, 100, 4, 0])
def test_weights_that_were_cut_off(pair, refused, side, length):
    path = pair.model(side) / WEIGHTS
    size = path.stat().st_size
    os.truncate(path, length % size)
    message = refused(pair)
    assert message.startswith(f"{path} cannot be read as safetensors (")
    assert message.endswith("; copy or download it again")
    if length == -1:
        assert f"(it has {size - 1:,} of {size:,} bytes)" in message


def test_weights_that_are_cut_off_meanwhile(pair, refused, monkeypatch):
    prepare = job.prepare

    def prepare_and_cut_off(*arguments):
        prepared = prepare(*arguments)
        os.truncate(pair.tuned / WEIGHTS, 8000)
        return prepared

    monkeypatch.setattr(job, "prepare", prepare_and_cut_off)
    message = refused(pair, code=1)
    assert message.startswith(f"{pair.tuned / WEIGHTS}: ends inside tensor ")


def test_weights_that_go_away_meanwhile(pair, refused, monkeypatch):
    prepare = job.prepare

    def prepare_and_remove(*arguments):
        prepared = prepare(*arguments)
        (pair.tuned / WEIGHTS).unlink()
        return prepared

    monkeypatch.setattr(job, "prepare", prepare_and_remove)
    message = refused(pair, code=1)
    assert str(pair.tuned / WEIGHTS) in message and "No such file" in message


def test_shard_that_is_not_there(sharded, refused):
    shard = sorted(sharded.base.glob("model-*"))[1]
    shard.unlink()
    message = refused(sharded)
    assert message.startswith(f"{sharded.base / INDEX} places ")
    assert message.endswith(f" in {shard.name}, which is not there")


def test_tensor_that_the_index_places_elsewhere(sharded, refused):
    places = json.loads((sharded.base / INDEX).read_text())["weight_map"]
    file = places[EMBEDDING]
    other = next(place for place in places.values() if place != file)
    edit_json(sharded.base / INDEX, weight_map=places | {EMBEDDING: other})
    message = refused(sharded)
    assert EMBEDDING in message and str(sharded.base / file) in message and other in message
    assert "as well" not in message  # it is in `file` alone


def test_tensor_that_is_in_two_shards(sharded, refused):
    first, second, _ = sorted(path.name for path in sharded.tuned.glob("model-*"))
    with edited(sharded.tuned, first) as theirs, edited(sharded.tuned, second) as others:
        others[EMBEDDING] = theirs[EMBEDDING]
    message = refused(sharded)
    assert message == f"{sharded.tuned / second}: tensor {EMBEDDING} is in {first} as well"


def test_tensor_that_the_index_alone_has(sharded, refused):
    places = json.loads((sharded.base / INDEX).read_text())["weight_map"]
    file = places[EMBEDDING]
    edit_json(sharded.base / INDEX, weight_map=places | {"model.gate": file})
    message = refused(sharded)
    assert message == f"{sharded.base / INDEX} places model.gate in {file}, which lacks it"


@pytest.mark.parametrize("text", ['{"weight_map": {}}', '{"weight_map": ["x"]}', "{}"])
def test_index_that_says_nothing(sharded, refused, text):
    (sharded.base / INDEX).write_text(text)
    assert refused(sharded) == f"{sharded.base / INDEX} has no weight_map"


def test_shards_without_an_index(sharded, refused):
    (sharded.base / INDEX).unlink()
    message = refused(sharded)
    assert message.startswith(f"{sharded.base} has 3 safetensors files and no {INDEX}")


BROKEN = {
    "cut off": b'{"model_type": "qwen2"',
    "empty": b"",
    "no text": b'{"model_type": "\xff"}',
    "list": b"[]",
    "deep": b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    "long number": b'{"a": ' + b"1" * 5000 + b"}",
}


@SIDES
@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_configuration_that_is_no_json_object(pair, refused, side, content):
    path = pair.model(side) / "config.json"
    path.write_bytes(content)
    assert refused(pair).startswith(f"{path} ")


@SIDES
def test_configuration_that_is_not_there(pair, refused, side):
    (pair.model(side) / "config.json").unlink()
    message = refused(pair)
    assert message == f"{pair.model(side)} has no config.json; is it a model directory?"


@SIDES
def test_configuration_that_is_a_directory(pair, refused, side):
    path = pair.model(side) / "config.json"
    path.unlink()
    path.mkdir()
    assert str(path) in refused(pair)


@SIDES
def test_models_of_two_architectures(pair, refused, side):
    edit_json(pair.model(side) / "config.json", model_type="llama")
    message = refused(pair)
    assert "model_type" in message and "llama" in message and "qwen2" in message
    assert all(str(model) in message for model in (pair.base, pair.tuned))


# Vocabularies.


@pytest.fixture
def grown(tmp_path):
    """The tuned model has eight more tokens."""
    return Pair(*write_pair(tmp_path, "qwen2", seed=1, layers=1, tuned_vocab=40), tmp_path / "out")


def test_vocabularies_of_two_sizes(grown, refused):
    message = refused(grown)
    assert message.startswith(f"tensor {EMBEDDING} has 32 rows in {grown.base / WEIGHTS} and 40 in")
    assert "give --tokenizer-source base or tuned" in message


@SIDES
def test_vocabularies_of_two_sizes_without_a_tokenizer(grown, refused, side):
    (grown.model(side) / "tokenizer.json").unlink()
    message = refused(grown, "--tokenizer-source", "tuned")
    assert message.startswith(f"{grown.model(side)} has no tokenizer.json")


@SIDES
def test_tokenizer_that_cannot_be_read(grown, refused, side):
    path = grown.model(side) / "tokenizer.json"
    path.write_text("{}")
    message = refused(grown, "--tokenizer-source", "base")
    assert message.startswith(f"{path} cannot be read as a tokenizer: ")


def test_tokenizer_of_more_tokens_than_the_embedding_has_rows(grown, refused):
    shutil.copy(grown.tuned / "tokenizer.json", grown.base)
    message = refused(grown, "--tokenizer-source", "base", "--parity", "mergekit")
    assert f"tensor {EMBEDDING} has fewer rows than its tokenizer has tokens" in message
