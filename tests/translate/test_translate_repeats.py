"""Identical segments are translated once in the whole job, whatever lies between them."""

import json
from collections import Counter

import pytest
from fake_engine import fake_translation
from translate_jobs import read_rows, result_bytes, run_command

from hala_engine.errors import JobError
from hala_engine.translate import GenerationOptions


def tokens_of(engine, text):
    """Of the prompt about a text, and of its translation."""
    prompt = f"Translate from English to Arabic: {text}"
    return tuple(len(engine.tokenizer.encode(t)) for t in (prompt, fake_translation(text)))


def tokens_in(rows):
    return [(row["_hala"]["prompt_tokens"], row["_hala"]["output_tokens"]) for row in rows]


@pytest.mark.parametrize("invariant", [True, False], ids=["each result", "whole blocks"])
def test_across_shards_and_columns(tmp_path, translate, engine, write_rows, invariant):
    engine.invariant = invariant
    texts = [f"This text begins as the others do, and its number is {n % 7}" for n in range(40)]
    rows = [{"a": texts[n], "b": texts[n + 1]} for n in range(39)]
    result = translate(write_rows(rows), columns=("a", "b"), shard_rows=5)
    assert sorted(engine.seen) == sorted(set(texts))
    written = read_rows(tmp_path / "out")
    said = {row["a"]: row["a_ar"] for row in written}
    assert all(row["b_ar"] == said[row["b"]] for row in written)
    assert all(row["a_ar"] == said[row["a"]] for row in written)
    assert result.tokens_written == engine.stats.output_tokens < result.job.output_tokens


@pytest.mark.parametrize("invariant", [True, False], ids=["each result", "whole blocks"])
def test_texts_that_differ_in_masked_spans_only(tmp_path, translate, engine, write_rows, invariant):
    """Also those that come when the first has been answered and not yet been kept."""
    engine.invariant = invariant
    names = [f"name{n}" for n in range(40)]
    fillers = [{"text": f"Row {n} between"} for n in range(20)]
    rows = [{"text": f"Run `{name}` from {{{name}}} now"} for name in names]
    translate(write_rows([*rows[:2], *fillers, *rows[2:]]), shard_rows=50)
    assert engine.seen.count("Run <x1/> from <x2/> now") == 1 == len(engine.seen) - len(fillers)
    written = [row["text_ar"] for row in read_rows(tmp_path / "out")]
    assert [text for text in written if "`" in text] == [
        written[0].replace("name0", name) for name in names
    ]


def test_a_text_that_says_a_mark_itself_is_not_mixed_up(tmp_path, translate, engine, write_rows):
    translate(write_rows([{"text": "Run <x1/> now"}, {"text": "Run `a` now"}]))
    assert engine.seen == ["Run <x1/> now"]
    said = [row["text_ar"] for row in read_rows(tmp_path / "out")]
    run, now = fake_translation("run"), fake_translation("now")
    assert said == [f"{run} <x1/> {now}", f"{run} `a` {now}"]


def test_outer_white_space_and_pieces_of_long_texts(tmp_path, translate, engine, write_rows):
    long = "\n\n".join(["one two three four"] * 30)
    rows = [{"text": long}, {"text": "  one two three four\n"}, {"text": long + "\n"}]
    translate(write_rows(rows), max_segment_tokens=5, shard_rows=1)
    assert engine.seen == ["one two three four"]
    assert [row["text_ar"] for row in read_rows(tmp_path / "out")] == [
        fake_translation(row["text"]) for row in rows
    ]


def test_finer_pieces_too(tmp_path, translate, engine, write_rows, monkeypatch):
    """A spoilt answer makes the model be asked line by line, about each line once."""
    engine.careless = True
    texts = [
        f"Run `a` and `b`\nthen {word} it and look\n\n\nRun `a` and `b`"
        for word in ("see", "take", "hold", "fold")
    ]
    translate(write_rows([{"text": text} for text in texts]), shard_rows=1)
    assert max(Counter(engine.seen).values()) == 1
    assert len(engine.seen) > len(texts)


class PowerCut(BaseException):
    pass


@pytest.mark.parametrize("outputs", [5, 30, 45, 60, 80])
def test_finer_pieces_are_asked_about_in_the_rows_order_after_an_interruption_too(
    tmp_path, translate, engine, write_rows, monkeypatch, outputs
):
    """Else the blocks, and with them the answers of such an engine, would be others."""
    monkeypatch.setattr("hala_engine.jobs.blocks.BLOCK_BATCHES", 1)
    engine.careless, engine.invariant = True, False
    path = write_rows(
        [{"text": f"Row {n} calls `f({n})`\nfrom {'x' * (n % 5)}{n} with words"} for n in range(40)]
    )
    translate(path, output=tmp_path / "unbroken")
    assert len(engine.seen) > 85
    give = engine._output
    given = iter(range(outputs))

    def breaking(*arguments):
        if next(given, None) is None:
            raise PowerCut
        return give(*arguments)

    engine._output = breaking
    with pytest.raises(PowerCut):
        translate(path)
    engine._output = give
    translate(path)
    assert result_bytes(tmp_path / "out") == result_bytes(tmp_path / "unbroken")


def test_every_row_has_its_tokens_whoever_asked(tmp_path, translate, engine, write_rows):
    path = write_rows([{"a": "hello there", "b": "hello there"}, {"a": "hello there", "b": None}])
    result = translate(path, columns=("a", "b"), shard_rows=1)
    asked, said = tokens_of(engine, "hello there")
    assert tokens_in(read_rows(tmp_path / "out")) == [(2 * asked, 2 * said), (asked, said)]
    assert (result.job.prompt_tokens, result.job.output_tokens) == (3 * asked, 3 * said)
    assert (result.tokens_read, result.tokens_written) == (asked, said)


def test_a_failed_text_is_asked_about_once_and_fails_each_row(
    tmp_path, translate, engine, write_rows
):
    result = translate(write_rows([{"text": "explode"}] * 6), shard_rows=2)
    assert engine.seen == ["explode"]
    assert result.job.failed_rows == 6


def test_sampled_texts_repeat_too_and_each_has_a_seed_of_its_own(
    tmp_path, translate, engine, write_rows
):
    options = GenerationOptions(temperature=1.0)
    texts = ["hello", "there"] * 3
    translate(write_rows([{"text": t} for t in texts]), shard_rows=2, generation=options)
    assert sorted(engine.seen) == ["hello", "there"]
    # The fake engine ends what it says with the request's seed.
    seeds = [row["text_ar"].split()[1] for row in read_rows(tmp_path / "out")]
    assert seeds == seeds[:2] * 3 and seeds[0] != seeds[1]


@pytest.mark.parametrize("invariant", [True, False], ids=["each result", "whole blocks"])
def test_across_a_kill_and_a_resume(tmp_path, translate, engine, write_rows, invariant):
    """A process killed in its second shard; what it had kept, and what shard one holds, is not
    asked about again, though shards three and four are full of it."""
    rows = [{"text": f"Text {n % 60} calls `f({n})` here", "n": n} for n in range(160)]
    path, out = write_rows(rows), tmp_path / "out"
    done = run_command(
        path,
        *("--output", out, "--shard-rows", 40),
        crash={"point": "output", "number": 55},
        invariant=invariant,
        block_batches=1,
    )
    assert done.returncode == -9
    assert len(list((out / "data").iterdir())) == 1
    engine.invariant = invariant
    result = translate(path, shard_rows=40)
    # Batches of eight: 48 of the 60 different texts had been kept.
    assert sorted(engine.seen) == [f"Text {n} calls <x1/> here" for n in range(48, 60)]
    assert result.job.output_tokens == sum(said for _, said in tokens_in(read_rows(out)))


def test_a_job_begun_anew_takes_none_of_the_old_answers(tmp_path, translate, engine, write_rows):
    path = write_rows([{"text": f"Text {n}"} for n in range(9)] + [{"text": 5}])
    with pytest.raises(JobError):
        translate(path, max_failures=0)
    assert (tmp_path / "out/.progress/answers.sqlite").exists()
    engine.seen.clear()
    translate(path, overwrite=True)
    assert len(engine.seen) == 9


def test_nothing_of_it_is_left_when_the_job_is_done(tmp_path, translate, write_rows):
    path, kept = write_rows([{"text": "hello"}]), tmp_path / "out/.progress/answers.sqlite"
    translate(path)
    assert not kept.exists()
    # As when the process was killed after the manifest had been written.
    for name in (kept.name, f"{kept.name}-journal"):
        kept.with_name(name).write_bytes(b"left")
    assert translate(path).already_complete
    assert sorted(file.name for file in kept.parent.iterdir()) == [
        "lock",
        "part-00000.json",
        "plan.json",
    ]
    assert json.loads((tmp_path / "out/manifest.json").read_text())["counts"]["rows"] == 1
