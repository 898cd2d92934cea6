"""Checkpoints: exact, whole, moved between numbers of ranks, and clear when they are not right."""

import json
import resource
import shutil

import pytest
import torch
import torch.distributed as dist

from hala_trainer.errors import InputError, TrainError
from hala_trainer.saving.checkpoint import Checkpoints
from tests.trainer.worker_ranks import Trained, run_ranks


@pytest.fixture(autouse=True)
def alone():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    torch.manual_seed(0)
    yield
    dist.destroy_process_group()


@pytest.fixture(params=[True, False], ids=["asynchronous", "synchronous"])
def store(request, tmp_path) -> Checkpoints:
    return Checkpoints(tmp_path / "checkpoints", keep=2, asynchronous=request.param)


def saved(store: Checkpoints, state: Trained, *steps: int) -> Checkpoints:
    for step in steps:
        store.save(state, step)
    store.wait()
    return store


def names(store: Checkpoints) -> list[str]:
    return sorted(path.name for path in store.root.iterdir())


def test_resumed_training_is_the_unbroken_one_bit_for_bit(store):
    state = Trained().train(2)
    saved(store, state, 2)
    unbroken = state.train(3).values()
    torch.manual_seed(1)
    resumed = Trained()
    assert store.restore(resumed) == 2
    assert resumed.train(3).values() == unbroken


def test_what_changes_after_save_returns_is_not_saved(store):
    state = Trained(epoch=1).train()
    before = state.values()
    store.save(state, 1)
    with torch.no_grad():
        for tensor in state.tensors().values():
            tensor.add_(1)
    state.scalars |= {"epoch": 2, "more": 3}
    store.wait()
    store.restore(state)
    assert state.values() == before
    assert state.scalars == {"epoch": 1}


def test_a_model_that_never_stepped_is_saved_and_goes_on_as_a_fresh_one(store):
    saved(store, Trained(), 0)
    resumed = Trained()
    store.restore(resumed)
    torch.manual_seed(3)
    stepped = resumed.train().values()
    torch.manual_seed(3)
    assert stepped == Trained().train().values()


def test_nothing_saved_is_step_0_and_leaves_the_state(store):
    state = Trained(epoch=1).train()
    before = state.values()
    assert store.restore(state) == 0
    assert (state.values(), state.scalars) == (before, {"epoch": 1})


def test_the_newest_are_kept_by_number_and_an_old_one_goes_only_after_a_new_one_is_whole(store):
    state = Trained()
    saved(store, state, 9, 10)
    store.save(state, 11)
    if store.asynchronous:
        assert store.steps() == [9, 10]
    store.wait()
    assert names(store) == ["step-10", "step-11"]


def test_poll_lets_a_written_checkpoint_appear(tmp_path):
    store = Checkpoints(tmp_path, keep=2, asynchronous=True)
    store.poll()
    store.save(Trained(), 1)
    assert store.steps() == []
    store._pending.written.result()
    store.poll()
    assert store.steps() == [1]


def test_a_step_saved_twice_stays_as_it_was(store):
    state = Trained(seconds=1)
    saved(store, state, 1)
    state.scalars["seconds"] = 2
    saved(store, state, 1)
    store.restore(state)
    assert state.scalars == {"seconds": 1}


def test_half_written_leftovers_are_removed_and_whole_checkpoints_kept(store):
    saved(store, Trained(), 1)
    shutil.copytree(store.root / "step-1", store.root / "tmp-2")
    (store.root / "tmp-old-0").mkdir()
    assert Checkpoints(store.root, keep=2, asynchronous=True).steps() == [1]
    assert names(store) == ["step-1"]


def test_a_full_disk_is_one_line_and_the_earlier_checkpoint_is_kept(store):
    state = Trained(width=4096)
    saved(store, state, 1)
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, unlimited[1]))
    try:
        with pytest.raises(TrainError) as failed:
            saved(store, state, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    assert str(failed.value) == (
        f"{store.root}/step-2: cannot write the checkpoint (File too large); step-1 is kept"
    )
    assert names(store) == ["step-1"]
    assert saved(store, state, 2).steps() == [1, 2]


def test_a_root_that_cannot_be_made_is_an_input_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file/checkpoints: cannot write there"):
        Checkpoints(tmp_path / "file" / "checkpoints", keep=2, asynchronous=True)


DAMAGE = {
    "no tensors": ("__0_0.distcp", None, "__0_0.distcp is missing"),
    "half the tensors": ("__0_0.distcp", slice(0, 5000), "__0_0.distcp is cut off"),
    "other tensors": ("__0_0.distcp", slice(None, None, -1), "its tensors cannot be read"),
    "no metadata": (".metadata", None, ".metadata is missing"),
    "half the metadata": (".metadata", slice(0, 500), ".metadata cannot be read"),
    "no scalars": ("trainer.json", None, "trainer.json is missing"),
    "half the scalars": ("trainer.json", slice(0, 9), "trainer.json cannot be read"),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("earlier", [True, False])
def test_a_damaged_checkpoint_is_named_with_the_way_on(tmp_path, damage, earlier):
    store = Checkpoints(tmp_path, keep=2, asynchronous=False)
    state = Trained()
    saved(store, state, *([3, 4] if earlier else [4]))
    name, kept, reason = DAMAGE[damage]
    file = tmp_path / "step-4" / name
    if kept is None:
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[kept])
    with pytest.raises(InputError) as refused:
        store.restore(state)
    on = "from step 3" if earlier else "from the beginning"
    assert str(refused.value) == (
        f"{tmp_path}/step-4 is damaged ({reason}); remove that folder to go on {on}"
    )
    shutil.rmtree(tmp_path / "step-4")
    assert store.restore(state) == (3 if earlier else 0)


def test_a_checkpoint_of_another_shape_is_refused_naming_the_tensor(tmp_path):
    store = saved(Checkpoints(tmp_path, keep=2, asynchronous=False), Trained(width=3), 1)
    state = Trained(width=4)
    before = state.values()
    with pytest.raises(InputError, match=r"single is \[1, 3\] there and \[1, 4\] here"):
        store.restore(state)
    assert state.values() == before


@pytest.mark.parametrize("where", ["there", "here"])
def test_a_checkpoint_of_other_names_is_refused_naming_the_tensor(tmp_path, where):
    store = Checkpoints(tmp_path, keep=2, asynchronous=False)
    fewer, all_of_them = Trained(), Trained()
    del fewer.parameters["vector"]
    first, second = (fewer, all_of_them) if where == "there" else (all_of_them, fewer)
    saved(store, first, 1)
    with pytest.raises(InputError, match=rf"vector is .*missing.* {where}"):
        store.restore(second)


@pytest.fixture(scope="module")
def by_one(tmp_path_factory):
    """The folder of a checkpoint that one rank saved, and its values."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    root = tmp_path_factory.mktemp("one")
    torch.manual_seed(0)
    state = Trained(step=4).train(4)
    saved(Checkpoints(root, keep=2, asynchronous=True), state, 4)
    values = state.values()
    dist.destroy_process_group()
    return root, values


@pytest.fixture(scope="module")
def by_two(tmp_path_factory, by_one):
    root = tmp_path_factory.mktemp("two")
    return root, run_ranks("checkpoints", root, by_one[0])


def test_two_ranks_resume_bit_for_bit_each_with_its_own_random_state(by_two):
    _, ranks = by_two
    for found in ranks:
        assert found["trained while writing"]
        assert found["restored step"] == 2
        assert found["scalars"] == {"step": 2}
        assert found["restored"] == found["saved"] == ranks[0]["saved"]
        assert found["resumed"] == found["unbroken"] == ranks[0]["unbroken"]


def test_a_checkpoint_appears_only_when_every_rank_says_so(by_two):
    _, ranks = by_two
    for found in ranks:
        assert found["after one rank's poll"] == []
        assert found["steps"] == [2]


def test_saved_by_one_restored_by_two(by_one, by_two):
    for found in by_two[1]:
        assert found["from one"] == by_one[1]
        assert found["random left"]


def test_saved_by_two_restored_by_one(by_two):
    root, ranks = by_two
    state = Trained()
    before = torch.get_rng_state()
    assert Checkpoints(root, keep=2, asynchronous=True).restore(state) == 2
    assert state.values() == ranks[0]["saved"]
    assert state.scalars == {"step": 2}
    assert torch.equal(torch.get_rng_state(), before)


def test_one_rank_that_cannot_write_stops_all_of_them_with_the_reason(by_two):
    root, ranks = by_two
    for found in ranks:
        assert found["error"] == (
            f"{root}/full/step-2: cannot write the checkpoint (File too large); step-1 is kept"
        )
        assert found["left"] == ["step-1"]
        assert found["steps after it"] == [1, 2]
        assert found["lost"].endswith(
            "step-3: cannot write the checkpoint (no memory); step-2 is kept"
        )


def test_scalars_are_readable_json(tmp_path):
    saved(Checkpoints(tmp_path, keep=2, asynchronous=True), Trained(epoch=1, cursor=5), 1)
    held = json.loads((tmp_path / "step-1" / "trainer.json").read_text())
    assert held["scalars"] == {"epoch": 1, "cursor": 5}
