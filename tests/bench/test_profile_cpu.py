"""The profile of a step: its parts add up to it, and no kind of operation is missed."""

import json
import time
from pathlib import Path

import pytest

from bench.profile_cpu import Step, _quickest, main
from bench.stopwatch import KINDS, REST, Stopwatch, watched
from hala_engine.layers import attention, mlp
from hala_engine.layers.linear import Linear


def test_a_call_inside_another_counts_once():
    watch = Stopwatch()

    def sleep(seconds: float) -> None:
        time.sleep(seconds)

    inner = watch.timed("inner", sleep)

    def both() -> None:
        time.sleep(0.02)
        inner(0.05)

    begin = time.perf_counter()
    watch.timed("outer", both)()
    elapsed = time.perf_counter() - begin
    seconds = watch.lap()
    assert sum(seconds.values()) == pytest.approx(elapsed, rel=0.02)
    assert seconds["inner"] >= 0.05 and 0.02 <= seconds["outer"] < elapsed - 0.045
    assert watch.lap() == {}


def test_a_call_that_fails_is_timed_and_leaves_the_outer_one_right():
    watch = Stopwatch()
    fail = watch.timed("inner", lambda: 1 // 0)

    def outer() -> None:
        with pytest.raises(ZeroDivisionError):
            fail()

    watch.timed("outer", outer)()
    assert set(watch.lap()) == {"inner", "outer"} and watch._inner == []


def test_what_is_wrapped_is_put_back():
    before = Linear.forward, attention.paged_attention, mlp.ACTIVATIONS
    with pytest.raises(RuntimeError), watched(Stopwatch()):
        assert before[0] is not Linear.forward
        assert attention.paged_attention is not before[1]
        raise RuntimeError
    assert before == (Linear.forward, attention.paged_attention, mlp.ACTIVATIONS)


def test_profile_of_a_small_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    target = tmp_path / "profile.json"
    arguments = ["--model", "tiny", "--threads", "1", "--batches", "1,4", "--repeats", "2"]
    assert main([*arguments, "--prompt", "20", "--output", "30", "--json", str(target)]) == 0
    result = json.loads(target.read_text())
    assert [p["batch"] for p in result["profiles"]] == [1, 4]
    kinds = {*KINDS.values(), "matrix products", "output projection", "making the batch", REST}
    for profile in result["profiles"]:
        for kind in ("decode", "prompts"):
            step = profile[kind]
            assert sum(step["parts"].values()) == pytest.approx(step["step_s"])
            # The activation may be part of the product before it.
            assert set(step["parts"]) >= kinds - {"activation"}
            assert step["step_s"] == pytest.approx(step["gemm_floor_s"] + step["above_floor_s"])
        assert profile["decode"]["tokens"] == profile["decode"]["drawn"] == profile["batch"]
        assert profile["prompts"]["tokens"] == 20 * profile["batch"]
        assert profile["decode"]["steps"] == 2 * 29  # two runs; the first token is the prompt's
        assert profile["host_s"] > 0
    printed = capsys.readouterr().out
    assert "matrix products" in printed and "above them" in printed


def test_the_quickest_steps_of_the_commonest_size_count():
    steps = [Step(4, 4, 4, s, {"a": s}) for s in (8.0, 1.0, 2.0, 9.0, 7.0, 6.0, 5.0, 4.0)]
    found = _quickest([*steps, Step(3, 3, 3, 0.1, {"a": 0.1})])
    assert found["tokens"] == 4 and found["steps"] == 8
    assert found["step_s"] == pytest.approx(1.5) and found["parts"] == {"a": pytest.approx(1.5)}
