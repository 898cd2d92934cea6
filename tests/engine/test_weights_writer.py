"""The streaming safetensors writer, read back by the safetensors library."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file

from hala_engine.weights.writer import DTYPES, SafetensorsWriter, TensorSpec, file_bytes

METADATA = {"format": "pt"}
SHAPES = st.lists(st.integers(0, 9), max_size=3).map(tuple)
SPECS = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8).filter(
        lambda name: name != "__metadata__"
    ),
    st.builds(TensorSpec, st.sampled_from(sorted(DTYPES)), SHAPES),
    max_size=6,
)


def random_tensor(spec: TensorSpec) -> torch.Tensor:
    return torch.randint(0, 100, (spec.bytes,), dtype=torch.uint8)


@settings(max_examples=40, deadline=None)
@given(specs=SPECS, step=st.integers(1, 300), data=st.data())
def test_what_is_written_in_any_order_reads_back(tmp_path_factory, specs, step, data):
    path = tmp_path_factory.mktemp("writer") / "model.safetensors"
    tensors = {name: random_tensor(spec) for name, spec in specs.items()}
    parts = [(name, at) for name, spec in specs.items() for at in range(0, spec.bytes, step)]
    with SafetensorsWriter(path, specs, METADATA) as writer:
        for name, at in data.draw(st.permutations(parts)):
            writer.write(name, tensors[name][at : at + step].numpy().data, at)
    assert path.stat().st_size == file_bytes(specs, METADATA)
    with safe_open(path, framework="pt") as reader:
        assert reader.metadata() == METADATA
        assert set(reader.keys()) == set(specs)
        for name, spec in specs.items():
            read = reader.get_tensor(name)
            assert read.dtype == DTYPES[spec.dtype]
            assert tuple(read.shape) == spec.shape
            assert read.contiguous().view(-1).view(torch.uint8).equal(tensors[name])


def test_each_tensor_lies_aligned_to_its_dtype(tmp_path):
    """Others map the file and read it in place."""
    specs = {
        "a": TensorSpec("F8_E4M3", (3,)),
        "b": TensorSpec("BF16", (1,)),
        "c": TensorSpec("F32", (1,)),
        "d": TensorSpec("F16", (5,)),
        "e" * 5: TensorSpec("F8_E4M3", (1, 1)),
    }
    path = tmp_path / "model.safetensors"
    with SafetensorsWriter(path, specs, {}) as writer:
        for name, spec in specs.items():
            writer.write(name, bytes(spec.bytes))
    for name, tensor in load_file(path).items():
        assert tensor.data_ptr() % specs[name].itemsize == 0, name
    header_bytes = int.from_bytes(path.read_bytes()[:8], "little")
    assert header_bytes % 8 == 0


def test_threads_may_write_side_by_side(tmp_path):
    specs = {str(i): TensorSpec("BF16", (100, 1000)) for i in range(4)}
    tensors = {name: random_tensor(spec) for name, spec in specs.items()}
    path = tmp_path / "model.safetensors"
    with SafetensorsWriter(path, specs, METADATA) as writer, ThreadPoolExecutor(8) as pool:

        def write(job: tuple[str, int]) -> None:
            name, at = job
            writer.write(name, tensors[name][at : at + 1000].numpy().data, at)

        list(pool.map(write, [(n, at) for at in range(0, 200_000, 1000) for n in specs]))
    for name, tensor in load_file(path).items():
        assert tensor.view(-1).view(torch.uint8).equal(tensors[name])


@pytest.fixture
def one(tmp_path):
    """The path of a file and the specification of its one tensor, of 8 bytes."""
    return tmp_path / "model.safetensors", {"x": TensorSpec("F32", (2,))}


def test_a_tensor_that_lacks_bytes_is_an_error(one):
    with (
        pytest.raises(ValueError, match="4 of 8 bytes of x"),
        SafetensorsWriter(*one, METADATA) as writer,
    ):
        writer.write("x", bytes(4))


@pytest.mark.parametrize(("size", "offset"), [(12, 0), (4, 8), (4, -4)])
def test_bytes_outside_the_tensor_are_refused(one, size, offset):
    with pytest.raises(ValueError, match="beyond the end"), SafetensorsWriter(*one, {}) as writer:
        writer.write("x", bytes(size), offset)


def test_an_error_inside_the_block_comes_through(one):
    with pytest.raises(KeyError), SafetensorsWriter(*one, METADATA):
        raise KeyError("mine")


def test_a_file_is_never_written_over(one):
    path, specs = one
    path.write_text("precious")
    with pytest.raises(FileExistsError):
        SafetensorsWriter(path, specs, METADATA)
    assert path.read_text() == "precious"
