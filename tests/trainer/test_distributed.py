"""What the processes of a run tell each other."""

import time

import pytest
import torch

from hala_trainer.distributed import PATIENCE, Processes, processes
from hala_trainer.errors import InputError
from tests.trainer.forked_ranks import on_ranks


def rank_work(p: Processes, folder) -> dict:
    made = folder / "made"

    def make() -> str:
        if p.rank == 0:
            time.sleep(0.2)
            made.write_text("by the first")
        return f"{made.read_text()}, seen by {p.rank}"

    def refuse() -> None:
        raise InputError(f"process {p.rank} has no data")

    def refuse_but_the_first() -> None:
        if p.rank:
            refuse()

    found: dict[str, object] = {"first": p.first(make)}
    try:
        p.first(refuse)
    except InputError as error:
        found["error"] = str(error)
    try:
        p.first(refuse_but_the_first)
    except InputError as error:
        found["later error"] = str(error)
    found["sums"] = p.sums(2.0**24, 1, p.rank)
    found["place"] = (p.rank, p.world, p.mesh.size(), p.mesh.get_local_rank())
    return found


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    return on_ranks(2, rank_work, tmp_path_factory.mktemp("ranks"))


def test_the_others_find_what_the_first_left_on_the_disk(ranks):
    assert [rank["first"] for rank in ranks] == [f"by the first, seen by {r}" for r in (0, 1)]


def test_bad_input_of_the_first_is_raised_by_all(ranks):
    assert [rank["error"] for rank in ranks] == ["process 0 has no data"] * 2


def test_bad_input_of_another_alone_is_raised_by_all_too(ranks):
    assert [rank["later error"] for rank in ranks] == ["process 1 has no data"] * 2


def test_sums_are_exact(ranks):
    assert [rank["sums"] for rank in ranks] == [[2.0**25, 2, 1]] * 2
    with processes("cpu") as alone:
        assert alone.sums(2.0**24 + 1) == [2.0**24 + 1]


def test_every_process_has_its_place(ranks):
    assert [rank["place"] for rank in ranks] == [(0, 2, 2, 0), (1, 2, 2, 1)]


def test_waiting_for_the_first_outlasts_a_day_of_tokenising(monkeypatch):
    given = {}
    new_group = torch.distributed.new_group
    monkeypatch.setattr(
        torch.distributed, "new_group", lambda **k: given.update(k) or new_group(**k)
    )
    with processes("cpu"):
        assert given == {"backend": "gloo", "timeout": PATIENCE}
    assert PATIENCE.total_seconds() >= 86400


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_RANK", "1")
    refused = pytest.raises(InputError, match="process 1 of this machine has no GPU: there are 1")
    with refused, processes("auto"):
        pass


def test_arithmetic_is_again_as_it_was_after_a_run():
    """A run flushes numbers near zero; what comes after it in the process must not."""
    smallest = torch.tensor([1e-310], dtype=torch.float64)
    with processes("cpu"):
        assert (smallest * 1).item() == 0
    assert (smallest * 1).item() > 0
