"""Requests go through the engine in blocks, and each block's answers are kept or lost together."""

from collections import Counter
from dataclasses import dataclass, field

import pytest

from hala_engine.jobs import blocks
from hala_engine.jobs.answers import Answer, Answers
from hala_engine.jobs.blocks import Asker, Request
from hala_engine.sampling import SamplingParams

BATCH = 4
BLOCK = 3 * BATCH
PARAMS = [SamplingParams(max_new_tokens=tokens) for tokens in range(1, 100)]


@dataclass
class Stats:
    max_batch_size: int = BATCH


@dataclass(frozen=True)
class Output:
    index: int
    text: str
    token_ids: list[int]
    prompt_tokens: int
    finish_reason: str = "stop"
    error: str | None = None
    logprobs: list | None = None


@dataclass
class RecordingEngine:
    """Notes what is done to it. It reads a batch ahead and gives the latest read first.

    It holds on to what it generates, so that nothing is closed by being forgotten.
    """

    batch_invariant: bool = False
    crash_at: int | None = None
    failing: frozenset[int] = frozenset()
    stats: Stats = field(default_factory=Stats)
    events: list[str] = field(default_factory=list)
    held: list = field(default_factory=list)

    def forget(self):
        self.events.append("forget")

    def generate(self, prompts, params, *, ordered):
        assert not ordered
        self.held.append(self._generate(prompts, params))
        return self.held[-1]

    def _generate(self, prompts, params):
        self.events.append("generate")
        waiting = []
        try:
            for index, (ids, param) in enumerate(zip(prompts, params, strict=True)):
                assert ids == [param.max_new_tokens]
                self.events.append(f"read {ids[0]}")
                waiting.append((index, ids))
                if len(waiting) == BATCH:
                    yield from self._outputs(waiting)
            yield from self._outputs(waiting)
        finally:
            self.events.append("closed")

    def _outputs(self, waiting):
        while waiting:
            index, ids = waiting.pop()
            if ids[0] == self.crash_at:
                raise RuntimeError("the engine broke")
            self.events.append(f"give {ids[0]}")
            if ids[0] in self.failing:
                yield Output(index, "", [], 1, "error", "too long")
            else:
                yield Output(index, f" answer {ids[0]}\n", ids * 2, 1)

    def count(self, event):
        return self.events.count(event)

    def numbers(self, kind):
        return [int(e.split()[1]) for e in self.events if e.startswith(f"{kind} ")]


@pytest.fixture(autouse=True)
def three_batches_a_block(monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_BATCHES", BLOCK // BATCH)


@pytest.fixture
def answers(tmp_path):
    kept = Answers(tmp_path / "answers.sqlite")
    yield kept
    kept.close()


def requests(count):
    """Numbered from 1; a prompt's one token and its parameters say the number."""
    for number in range(1, count + 1):
        yield Request(f"question {number}", [number], PARAMS[number - 1])


def kept_of(answers, count):
    return [n for n in range(1, count + 1) if answers.get(f"question {n}") is not None]


def test_every_answer_comes_once_with_its_own_question(answers):
    given = list(Asker(RecordingEngine(), greedy=True).ask(requests(30), answers))
    assert sorted(given, key=lambda pair: pair[1].text) == sorted(
        [(f"question {n}", Answer(f"answer {n}", 1, 2, "stop")) for n in range(1, 31)],
        key=lambda pair: pair[1].text,
    )
    assert [answers.get(question) for question, _ in given] == [answer for _, answer in given]


def test_answers_come_as_they_are_finished(answers):
    engine = RecordingEngine()
    given = list(Asker(engine, greedy=True).ask(requests(20), answers))
    assert [int(question.split()[1]) for question, _ in given] == engine.numbers("give")
    assert given[0][0] == f"question {BATCH}"


def test_the_engine_is_drained_and_forgets_before_each_block(answers):
    engine = RecordingEngine()
    list(Asker(engine, greedy=True).ask(requests(2 * BLOCK + 5), answers))
    starts = [index for index, event in enumerate(engine.events) if event == "forget"]
    assert len(starts) == engine.count("generate") == engine.count("closed") == 3
    for start, end, size in zip(
        starts, [*starts[1:], len(engine.events)], (BLOCK, BLOCK, 5), strict=True
    ):
        block = engine.events[start:end]
        assert block[:2] == ["forget", "generate"] and block[-1] == "closed"
        kinds = Counter(event.split()[0] for event in block)
        assert kinds["read"] == kinds["give"] == size


@pytest.mark.parametrize("count", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK])
def test_no_block_is_empty(answers, count):
    engine = RecordingEngine()
    assert len(list(Asker(engine, greedy=True).ask(requests(count), answers))) == count
    assert engine.count("generate") == -(-count // BLOCK)


def test_no_request_is_made_beyond_a_block_before_its_answers_are_given(answers):
    made = []

    def noted():
        for request in requests(3 * BLOCK):
            made.append(request)
            yield request

    asked = Asker(RecordingEngine(), greedy=True).ask(noted(), answers)
    for given, _ in enumerate(asked, 1):
        assert len(made) <= -(-given // BLOCK) * BLOCK


def test_a_block_is_kept_as_a_whole_once_all_its_answers_are_there(answers):
    asked = Asker(RecordingEngine(), greedy=True).ask(requests(2 * BLOCK), answers)
    for given, _ in enumerate(asked, 1):
        assert len(kept_of(answers, 2 * BLOCK)) == (given - 1) // BLOCK * BLOCK
    assert len(kept_of(answers, 2 * BLOCK)) == 2 * BLOCK


def test_blocks_begun_again_after_a_crash_are_the_same(answers, tmp_path):
    engine = RecordingEngine(crash_at=BLOCK + 6)
    with pytest.raises(RuntimeError):
        list(Asker(engine, greedy=True).ask(requests(3 * BLOCK), answers))
    again = RecordingEngine()
    missing = (r for r in requests(3 * BLOCK) if answers.get(r.question) is None)
    list(Asker(again, greedy=True).ask(missing, answers))
    unbroken = RecordingEngine()
    list(Asker(unbroken, greedy=True).ask(requests(3 * BLOCK), Answers(tmp_path / "unbroken")))
    assert again.events == unbroken.events[unbroken.events.index("closed") + 1 :]


@pytest.mark.parametrize(
    ("invariant", "greedy"), [(False, True), (True, False)], ids=["not invariant", "sampling"]
)
def test_closing_early_keeps_no_part_of_a_block(answers, invariant, greedy):
    engine = RecordingEngine(batch_invariant=invariant)
    asked = Asker(engine, greedy).ask(requests(3 * BLOCK), answers)
    for _ in range(BLOCK + 7):
        next(asked)
    asked.close()
    assert engine.events[-1] == "closed"
    assert kept_of(answers, 3 * BLOCK) == list(range(1, BLOCK + 1))
    assert answers.pending == 0


def test_a_batch_invariant_engine_is_never_drained(answers):
    engine = RecordingEngine(batch_invariant=True)
    assert len(list(Asker(engine, greedy=True).ask(requests(3 * BLOCK), answers))) == 3 * BLOCK
    assert (engine.count("generate"), engine.count("forget")) == (1, 0)


def test_its_answers_are_kept_a_batch_at_a_time_and_none_is_lost(answers):
    asked = Asker(RecordingEngine(batch_invariant=True), greedy=True).ask(requests(30), answers)
    for given, _ in enumerate(asked, 1):
        assert len(kept_of(answers, 30)) == given // BATCH * BATCH
        if given == 2 * BATCH + 3:
            break
    asked.close()
    assert len(kept_of(answers, 30)) == 2 * BATCH + 3


@pytest.mark.parametrize("invariant", [True, False])
def test_what_breaks_in_the_engine_passes_through(answers, invariant):
    engine = RecordingEngine(batch_invariant=invariant, crash_at=BLOCK + 6)
    given = []
    with pytest.raises(RuntimeError, match="the engine broke"):
        given.extend(q for q, _ in Asker(engine, greedy=True).ask(requests(3 * BLOCK), answers))
    assert engine.events[-1] == "closed"
    kept = kept_of(answers, 3 * BLOCK)
    assert len(kept) == (BLOCK + 6 if invariant else BLOCK)
    assert set(range(1, BLOCK + 1)) <= set(kept)


@pytest.mark.parametrize("invariant", [True, False])
def test_what_breaks_in_making_requests_passes_through(answers, invariant):
    def breaking():
        yield from requests(BLOCK + 6)
        raise ValueError("no such row")

    engine = RecordingEngine(batch_invariant=invariant)
    with pytest.raises(ValueError, match="no such row"):
        list(Asker(engine, greedy=True).ask(breaking(), answers))
    assert engine.events[-1] == "closed"
    assert len(kept_of(answers, 3 * BLOCK)) == (BLOCK + 4 if invariant else BLOCK)


def test_an_output_that_is_an_error_is_an_answer_and_kept(answers):
    engine = RecordingEngine(failing=frozenset({2}))
    given = dict(Asker(engine, greedy=True).ask(requests(3), answers))
    failed = Answer("", 1, 0, "error", "too long")
    assert given["question 2"] == answers.get("question 2") == failed
    assert given["question 3"].error is None
