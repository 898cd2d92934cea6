"""Launch configurations: which file and which entry serve a device and a shape."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hala_kernels import tuning
from hala_kernels.backend import Device

H100 = Device("NVIDIA H100 80GB HBM3", 90, 132)
H200 = Device("NVIDIA H200", 90, 132)
L4 = Device("NVIDIA L4", 89, 58)


@pytest.fixture
def configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tuning, "CONFIGS", tmp_path)
    tuning.table_for.cache_clear()
    tuning._lookup.cache_clear()
    yield tmp_path
    tuning.table_for.cache_clear()
    tuning._lookup.cache_clear()


def write(folder: Path, table: str, stem: str, *entries: dict, **more) -> None:
    path = folder / table / f"{stem}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"source": "a test", "entries": list(entries), **more}))


def config(value: int, **conditions) -> dict:
    return {**conditions, "config": {"BLOCK": value}}


def test_a_device_takes_its_own_file_then_its_capability_then_the_default(configs):
    write(configs, "op", "default", config(1))
    assert tuning.lookup("op", H100)["BLOCK"] == 1
    tuning.table_for.cache_clear(), tuning._lookup.cache_clear()
    write(configs, "op", "sm_90", config(2))
    write(configs, "op", "NVIDIA_H100_80GB_HBM3", config(3), capability=90)
    assert tuning.lookup("op", H100)["BLOCK"] == 3
    assert tuning.lookup("op", H200)["BLOCK"] == 2
    assert tuning.lookup("op", L4)["BLOCK"] == 1


def test_the_first_entry_that_takes_the_shape_is_taken(configs):
    entries = [
        config(1, where={"k": 64}, up_to={"m": 16}),
        config(2, up_to={"m": 16}),
        config(3, where={"k": 64}),
        config(4),
    ]
    write(configs, "op", "default", *entries)
    found = [tuning.lookup("op", L4, m=m, k=k)["BLOCK"] for m in (16, 17) for k in (64, 65)]
    assert found == [1, 2, 3, 4]


def test_what_is_missing_is_named(configs):
    with pytest.raises(LookupError, match="op"):
        tuning.lookup("op", L4)
    write(configs, "op", "default", config(1, up_to={"m": 4}))
    with pytest.raises(LookupError, match=r"op/default\.json .*'m': 5"):
        tuning.lookup("op", L4, m=5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "property name"),
        ("[]", "list"),
        ('{"entries": []}', "source"),
        ('{"source": "x"}', "entries"),
        ('{"source": "x", "entries": [{}]}', "config"),
        ('{"source": "x", "entries": [{"config": {}, "upto": {"m": 1}}]}', "upto"),
        ('{"source": "x", "entries": [3]}', "int"),
    ],
)
def test_a_bad_file_is_refused_by_name(configs, text, message):
    path = configs / "op" / "default.json"
    path.parent.mkdir()
    path.write_text(text)
    for find in (tuning.load, lambda _: tuning.lookup("op", L4)):
        with pytest.raises(ValueError, match=message) as raised:
            find(path)
        assert str(path) in str(raised.value)


def test_a_device_file_says_its_capability(configs):
    write(configs, "op", "NVIDIA_L4", config(1))
    with pytest.raises(ValueError, match="capability"):
        tuning.load(configs / "op" / "NVIDIA_L4.json")


def test_every_file_that_can_serve_a_capability_is_found(configs):
    write(configs, "op", "default", config(1))
    write(configs, "op", "NVIDIA_L4", config(2), capability=89)
    write(configs, "op", "NVIDIA_H200", config(3), capability=90)
    write(configs, "op", "sm_90", config(4), capability=90)

    def served(capability: int) -> set[str]:
        return {table.device for table in tuning.tables_of_capability("op", capability)}

    assert served(89) == {"NVIDIA_L4", "default"}
    assert served(90) == {"NVIDIA_H200", "sm_90"}
    assert served(100) == {"default"}
    (configs / "op" / "default.json").unlink()
    with pytest.raises(LookupError, match=r"default\.json"):
        tuning.tables_of_capability("op", 90)


def test_forcing_holds_within_its_block_and_nests(configs):
    write(configs, "op", "default", config(1))
    with tuning.forcing("op", {"BLOCK": 5}):
        with tuning.forcing("op", tuning.Table("op", "t", "", (tuning.Entry({}, {}, {"B": 6}),))):
            assert tuning.lookup("op", L4, m=1) == {"B": 6}
        assert tuning.lookup("op", L4, m=1) == {"BLOCK": 5}
    assert tuning.lookup("op", L4, m=1) == {"BLOCK": 1}


def test_shipped_files_load_and_say_their_source():
    files = sorted(tuning.CONFIGS.glob("*/*.json"))
    assert files
    for path in files:
        table = tuning.load(path)
        assert table.source and table.entries
        assert (path.parent / "default.json").exists()
        *_, last = tuning.load(path.parent / "default.json").entries
        assert not last.up_to, f"{path.parent.name}: its last entry does not take the rest"
