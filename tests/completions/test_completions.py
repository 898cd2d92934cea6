"""The completions job, with the shipped model: what rows become, which fail, what is refused."""

import gzip
import itertools
import json
import random
import shutil
from datetime import date
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import hala_engine
from hala_engine import Engine, EngineConfig, SamplingParams
from hala_engine.completions import CompletionsConfig, complete, job
from hala_engine.errors import InputError
from hala_engine.translate import EngineOptions, GenerationOptions
from tests.completions.json_lines import read_rows, write_rows

SHIPPED = Path(hala_engine.__file__).parent / "assets" / "hala-mini-en-ar"
TEXTS = [
    "Translate from English to Arabic: The big house is near the river.",
    "Mona ate",
    "Translate from English to Arabic: Did you see the new film?",
    "The",
    "Translate from English to Arabic: He met two doctors in the museum. She is generous.",
    "Omar is a farmer. He has",
] * 3
GREEDY = SamplingParams(max_new_tokens=9)


@pytest.fixture(scope="module")
def engine():
    config = EngineConfig(device="cpu", dtype="float32", max_batch_size=4, max_batched_tokens=64)
    return Engine(SHIPPED, config=config)


@pytest.fixture
def generate(engine, monkeypatch, tmp_path):
    """Run a job on rows, or on a file, with the engine above; returns the result and its rows."""
    monkeypatch.setattr(job, "load_engine", lambda config: engine)

    def run(source, **options):
        if isinstance(source, list):
            source = write_rows(tmp_path / "rows.jsonl", source)
        options = {
            "output": str(tmp_path / "out.jsonl"),
            "model": "hala-mini-en-ar",
            "overwrite": True,
            "generation": GenerationOptions(max_new_tokens=9),
        } | options
        config = CompletionsConfig(inputs=(str(source),), **options)
        return complete(config), read_rows(config.path)

    return run


def user(text: str) -> dict:
    return {"role": "user", "content": text}


def test_each_row_keeps_its_columns_and_place(generate, engine):
    rows = [{"id": i, "prompt": text, "nested": {"é": [i]}} for i, text in enumerate(TEXTS)]
    result, written = generate(rows)
    assert (result.rows, result.failed_rows) == (len(rows), 0)
    for row, output, new in zip(rows, engine.generate(TEXTS, GREEDY), written, strict=True):
        info = {
            "prompt_tokens": output.prompt_tokens,
            "output_tokens": len(output.token_ids),
            "finish_reason": output.finish_reason,
        }
        assert new == row | {"completion": output.text, "_hala": info}
    # They do not all end alike, so they did not finish in this order.
    assert {new["_hala"]["finish_reason"] for new in written} == {"stop", "length"}
    assert not result.failures.exists()


def test_a_prompt_is_plain_text_unless_it_is_made_a_chat(generate, engine):
    rows = [{"prompt": text} for text in TEXTS[:3]]
    _, plain = generate(rows)
    _, chat = generate(rows, chat=True, system="Be brief.")
    chats = [[{"role": "system", "content": "Be brief."}, user(text)] for text in TEXTS[:3]]
    expected = [output.text for output in engine.generate(chats, GREEDY)]
    assert [row["completion"] for row in chat] == expected
    assert [row["completion"] for row in plain] != expected
    assert plain[0]["_hala"]["prompt_tokens"] == len(engine.tokenizer.encode(TEXTS[0]))


def test_messages_in_both_spellings(generate, engine):
    text = TEXTS[0]
    rows = [
        {"chat": [user("Hi"), {"role": "assistant", "content": "Yes?"}, user(text)]},
        {"chat": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yes?"}]},
        {"chat": [{"from": "system", "value": "Its own."}, {"from": "human", "value": text}]},
    ]
    _, written = generate(rows, column="chat", is_messages=True, system="Given.")
    given = {"role": "system", "content": "Given."}
    chats = [
        [given, *rows[0]["chat"]],
        [given, user("Hi"), {"role": "assistant", "content": "Yes?"}],
        [{"role": "system", "content": "Its own."}, user(text)],
    ]
    expected = [output.text for output in engine.generate(chats, GREEDY)]
    assert [row["completion"] for row in written] == expected
    assert written[1]["chat"] == rows[1]["chat"]


def test_every_form_of_input(generate, tmp_path, engine):
    expected = [output.text for output in engine.generate(TEXTS[:3], GREEDY)]
    lines = "".join(json.dumps({"prompt": text}) + "\n" for text in TEXTS[:3])
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    (tmp_path / "a.json").write_text(json.dumps([{"prompt": text} for text in TEXTS[:3]]))
    (tmp_path / "a.csv").write_text("prompt\n" + "".join(f'"{text}"\n' for text in TEXTS[:3]))
    (tmp_path / "a.txt").write_text("".join(f"{text}\n" for text in TEXTS[:3]))
    days = [date(2024, 2, day) for day in (1, 2, 3)]
    pq.write_table(pa.table({"prompt": TEXTS[:3], "day": days}), tmp_path / "a.parquet")
    for name in ("a.jsonl.gz", "a.json", "a.csv", "a.txt", "a.parquet"):
        column = "text" if name == "a.txt" else "prompt"
        _, written = generate(tmp_path / name, column=column)
        assert [row["completion"] for row in written] == expected, name
    assert written[2]["day"] == "2024-02-03"


def test_a_directory_is_read_in_order_and_cut_at_the_limit(generate, tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("b", "a"):
        rows = [{"prompt": text, "from": name} for text in TEXTS[:2]]
        write_rows(tmp_path / "in" / f"{name}.jsonl", rows)
    # Beyond the limit nothing is looked at.
    (tmp_path / "in" / "c.jsonl").write_text("broken")
    result, written = generate(tmp_path / "in", limit=3)
    assert [row["from"] for row in written] == ["a", "a", "b"]
    assert result.rows == 3


BAD_ROWS = [
    ({"id": 0}, "no column 'prompt' in this row"),
    ({"prompt": None}, "not text but null"),
    ({"prompt": 7}, "not text but int"),
    ({"prompt": ""}, "the prompt is empty"),
    ({"prompt": "The house " * 100}, "tokens, the context is 128"),
]


def test_rows_that_cannot_run_are_kept_and_listed(generate):
    good = {"prompt": TEXTS[1]}
    result, written = generate([good, *(row for row, _ in BAD_ROWS), good])
    assert (result.rows, result.failed_rows) == (7, 5)
    assert result.failures.name == "out.failures.jsonl"
    listed = read_rows(result.failures)
    assert [failure["row"] for failure in listed] == [1, 2, 3, 4, 5]
    for (row, reason), new, failure in zip(BAD_ROWS, written[1:], listed, strict=False):
        assert new["completion"] is None and new["_hala"]["finish_reason"] is None
        assert reason in new["_hala"]["error"] == failure["reason"]
        assert failure["column"] == "prompt"
        assert row.items() <= new.items()
    assert written[0]["completion"] == written[6]["completion"] != ""
    _, written = generate([good])
    assert not result.failures.exists()


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ("Hello", "not a list of messages but str"),
        ([], "the list of messages is empty"),
        (["Hello"], "a message is no object but str"),
        ([{"role": "user"}], "a message needs a role and content that are text"),
        ([{"role": "user", "content": ["a"]}], "a message needs a role and content"),
    ],
)
def test_messages_that_are_none_fail_their_row(generate, messages, reason):
    rows = [{"m": messages}, {"m": [user(TEXTS[0])]}]
    result, written = generate(rows, column="m", is_messages=True)
    assert result.failed_rows == 1
    assert reason in written[0]["_hala"]["error"]
    assert written[1]["completion"]


def test_messages_that_the_template_refuses_fail_their_row(tmp_path):
    model = Path(shutil.copytree(SHIPPED, tmp_path / "model"))
    config = json.loads((model / "tokenizer_config.json").read_text())
    config["chat_template"] = (
        "{% for m in messages %}{% if m.role != 'user' %}{{ raise_exception('only users') }}"
        "{% endif %}{{ m.content }}{% endfor %}"
    )
    (model / "tokenizer_config.json").write_text(json.dumps(config))
    bad = [{"role": "assistant", "content": "x"}]
    rows = write_rows(tmp_path / "rows.jsonl", [{"m": bad}, {"m": [user("The")]}])
    result = complete(
        CompletionsConfig(
            inputs=(str(rows),),
            output=str(tmp_path / "out.jsonl"),
            model=str(model),
            column="m",
            is_messages=True,
            generation=GenerationOptions(max_new_tokens=2),
        )
    )
    assert (result.rows, result.failed_rows) == (2, 1)
    assert "only users" in read_rows(result.failures)[0]["reason"]


SAMPLED = GenerationOptions(max_new_tokens=12, temperature=1.2, seed=5)


def test_samples_of_a_row_differ_and_depend_on_nothing_beside_it(generate, monkeypatch):
    rows = [{"prompt": TEXTS[i % 2 * 2 + 1]} for i in range(18)]
    _, written = generate(rows, n=3, generation=SAMPLED)
    completions = [row["completions"] for row in written]
    assert all(len(samples) == 3 for samples in completions)
    assert sum(len(set(samples)) == 3 for samples in completions) > len(rows) // 2
    assert all(len(row["_hala"]["finish_reasons"]) == 3 for row in written)
    # The same text in another row is another draw.
    assert completions[0] != completions[6]
    config = EngineConfig(device="cpu", dtype="float32", max_batch_size=13, prefix_caching=False)
    other = Engine(SHIPPED, config=config)
    monkeypatch.setattr(job, "load_engine", lambda config: other)
    _, again = generate(rows[:7], n=3, generation=SAMPLED)
    assert [row["completions"] for row in again] == completions[:7]
    _, fewer = generate(rows[:7], n=2, generation=SAMPLED)
    assert [row["completions"] for row in fewer] == [samples[:2] for samples in completions[:7]]
    another = GenerationOptions(max_new_tokens=12, temperature=1.2, seed=6)
    _, new = generate(rows[:7], n=3, generation=another)
    assert [row["completions"] for row in new] != completions[:7]


def test_samples_of_a_row_share_its_prompt(generate, engine):
    before, read_before = engine.stats.shared_tokens, engine.stats.prompt_tokens
    generate([{"prompt": text * 2} for text in TEXTS[4:5]], n=4, generation=SAMPLED)
    shared, read = engine.stats.shared_tokens - before, engine.stats.prompt_tokens - read_before
    assert shared > read / 2


def test_logprobs_are_those_of_the_engine(generate, engine):
    _, written = generate([{"prompt": text} for text in TEXTS[:6]], logprobs=3)
    params = SamplingParams(max_new_tokens=9, logprobs=3)
    for row, output in zip(written, engine.generate(TEXTS[:6], params), strict=True):
        info = row["_hala"]
        assert len(info["logprobs"]) == info["output_tokens"] == len(output.token_ids)
        for token, expected in zip(info["logprobs"], output.logprobs, strict=True):
            assert token["token_id"] == expected.token_id
            assert token["logprob"] == pytest.approx(expected.logprob, abs=1e-4)
            assert token["token"] == engine.tokenizer.token_text(expected.token_id)
            assert [t["token_id"] for t in token["top"]] == list(expected.top)
            assert token["top"][0]["logprob"] == token["logprob"]  # greedy
    assert "".join(t["token"] for t in written[0]["_hala"]["logprobs"]) == written[0]["completion"]


def test_logprobs_of_samples_and_of_tokens_that_are_parts_of_characters(generate, engine):
    vocabulary = engine.model.config.vocab_size
    generation = GenerationOptions(max_new_tokens=3, temperature=1.0)
    _, [row] = generate([{"prompt": TEXTS[1]}], n=2, logprobs=vocabulary, generation=generation)
    assert [len(sample) for sample in row["_hala"]["logprobs"]] == [3, 3]
    top = row["_hala"]["logprobs"][1][0]["top"]
    assert len(top) == vocabulary
    assert any("\ufffd" in token["token"] for token in top)


def test_no_more_than_the_drawn_tokens(generate):
    _, [row] = generate([{"prompt": TEXTS[0]}], logprobs=0)
    assert all(token["top"] == [] for token in row["_hala"]["logprobs"])


def refused(generate, source, **options) -> str:
    with pytest.raises(InputError) as error:
        generate(source, **options)
    return str(error.value)


def test_what_is_refused_before_the_model_is_loaded(generate, monkeypatch, tmp_path):
    def fail(config):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(job, "load_engine", fail)
    good = [{"prompt": "a"}] * 50
    message = refused(generate, good, column="promt")
    assert "no column 'promt'" in message and "did you mean 'prompt'?" in message
    message = refused(generate, [*good, {"completion": "b"}])
    assert "already has a column 'completion'" in message
    assert "already has a column '_hala'" in refused(generate, [{"prompt": "a", "_hala": {}}])
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"prompt": "a"}\n' * 5000 + '{"prompt" "b"}\n')
    assert "broken.jsonl:5001: broken JSON" in refused(generate, broken)
    rows = write_rows(tmp_path / "out.jsonl", good)
    assert "both input and output" in refused(generate, rows)
    assert "out.jsonl exists" in refused(generate, broken, overwrite=False)
    assert read_rows(rows) == good
    assert "no rows" in refused(generate, [])


def test_a_template_is_needed_for_messages(generate, engine, monkeypatch):
    monkeypatch.setattr(engine.tokenizer, "_template", None)
    assert "--chat: the tokenizer of" in refused(generate, [{"prompt": "a"}], chat=True)
    message = refused(generate, [{"m": [user("a")]}], column="m", is_messages=True)
    assert "--messages-column: the tokenizer of" in message


class OutOfOrder:
    """An engine that answers at once, in a random order within its batch."""

    def __init__(self) -> None:
        self.tokenizer = SimpleNamespace(has_chat_template=False, encode=lambda text: [1, 2])
        self.stats = SimpleNamespace(
            running=0, max_batch_size=16, cache_use=0.0, prompt_tokens=0, output_tokens=0
        )

    def generate(self, prompts, params, *, ordered):
        requests = zip(itertools.count(), prompts, params, strict=False)
        draw = random.Random(0)
        running = list(itertools.islice(requests, 16))
        while running:
            index, _, _ = running.pop(draw.randrange(len(running)))
            running += itertools.islice(requests, 1)
            yield SimpleNamespace(
                index=index,
                text=str(index),
                token_ids=[1],
                prompt_tokens=2,
                finish_reason="stop",
                error=None,
            )


def test_few_rows_are_in_memory_however_many_there_are(generate, monkeypatch):
    """Many fail: those at the start, while the engine waits for its first request, and
    every other one after that."""
    read = written = most = 0
    real_rows, real_write = job.read_rows, job.Writer.write

    def counted(files):
        nonlocal read
        for row in real_rows(files):
            read += 1
            yield row

    def write(self, row):
        nonlocal written, most
        real_write(self, row)
        written += 1
        most = max(most, read - written)

    monkeypatch.setattr(job, "read_rows", counted)
    monkeypatch.setattr(job.Writer, "write", write)
    monkeypatch.setattr(job, "load_engine", lambda config: OutOfOrder())
    rows = [{"prompt": "a" if i > 5000 and i % 2 else None, "i": i} for i in range(20_000)]
    result, out = generate(rows)
    assert (result.rows, result.failed_rows) == (20_000, 12_500)
    assert [row["i"] for row in out] == list(range(20_000))
    assert most < 500  # a row may be the last of its batch to end, several times over


def test_the_engine_of_a_job_has_its_options(tmp_path):
    config = CompletionsConfig(
        inputs=("x",),
        output="o.jsonl",
        model="hala-mini-en-ar",
        engine=EngineOptions(dtype="float32", prefix_caching=False, max_batch_size=3),
    )
    engine = job.load_engine(config)
    assert not engine.config.prefix_caching and engine.config.max_batch_size == 3
    assert engine.model_path == SHIPPED
