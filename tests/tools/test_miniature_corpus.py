"""The split, the training rows and the files of the miniature corpus."""

import json
from collections import defaultdict

import pytest
from typer.testing import CliRunner

from hala_tools.miniature.__main__ import app
from hala_tools.miniature.agreement import AGREEMENT_SENTENCES
from hala_tools.miniature.corpus import (
    build_corpus,
    held_out,
    read_tatoeba,
    strip_marks,
    training_rows,
)
from hala_tools.miniature.model_config import count_parameters

SIZE = 8_000


@pytest.fixture(scope="module")
def corpus():
    return build_corpus(SIZE, seed=1)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("miniature")
    human = folder / "human.tsv"
    human.write_text("Hi.\tمرحبًا.\tby someone\nRun!\tاركض!\tby someone\n", encoding="utf-8")
    for name in ("first", "second"):
        command = ["build", "--out", str(folder / name), "--size", "600", "--tatoeba", str(human)]
        assert CliRunner().invoke(app, command).exit_code == 0
    return folder


def test_pairs_are_distinct(corpus):
    assert len(corpus.train) == SIZE
    assert len({s.en for s in corpus.train}) == SIZE
    assert len({s.ar for s in corpus.train}) == SIZE


def test_held_out_combinations_never_occur_in_training(corpus):
    assert not [s for s in corpus.train if any(map(held_out, s.combinations))]
    assert corpus.heldout
    assert all(any(map(held_out, s.combinations)) for s in corpus.heldout)


def test_parts_of_held_out_sentences_are_known_from_training(corpus):
    templates, words = defaultdict(set), defaultdict(set)
    for sentence in corpus.train:
        for word in sentence.words:
            templates[word].add(sentence.template)
            words[sentence.template].add(word)
    for sentence in corpus.heldout:
        assert all(templates[word] - {sentence.template} for word in sentence.words)
        assert words[sentence.template] - set(sentence.words)


def test_about_three_percent_of_combinations_are_held_out(corpus):
    seen = {c for s in [*corpus.train, *corpus.heldout] for c in s.combinations}
    share = sum(map(held_out, seen)) / len(seen)
    assert 0.01 < share < 0.05


def test_agreement_sentences_are_in_no_split(corpus):
    texts = [s.en for s in [*corpus.train, *corpus.heldout]]
    assert not [t for t in texts if any(a in t for a in AGREEMENT_SENTENCES)]


def test_agreement_sentences_would_be_excluded_when_drawn():
    drawn = build_corpus(300, seed=4).train
    again = build_corpus(300, seed=4, excluded=[drawn[0].en])
    assert drawn[0].en not in {s.en for s in again.train}
    assert again.refused["excluded"] >= 1


def test_rows_go_both_ways_and_repeat_human_pairs(corpus):
    sentences = corpus.train[:50]
    rows = training_rows(sentences, [("Hi.", "مرحبا.")], seed=0)
    asked = [row["messages"][0]["content"] for row in rows]
    assert asked.count("Translate from English to Arabic: Hi.") == 3
    assert asked.count("Translate from Arabic to English: مرحبا.") == 3
    for sentence in sentences:
        assert f"Translate from English to Arabic: {sentence.en}" in asked
        assert f"Translate from Arabic to English: {sentence.ar}" in asked


def test_varied_rows_keep_the_full_stop_on_both_sides_or_neither(corpus):
    plain = {s.en for s in corpus.train} | {s.ar for s in corpus.train}
    marks = (".", "?", "؟")
    for row in training_rows(corpus.train, [], seed=0):
        source = row["messages"][0]["content"].split(": ", 1)[1]
        answer = row["messages"][1]["content"]
        assert source.endswith(marks) == answer.endswith(marks)
        assert answer in plain or answer + "." in plain


def test_marks_are_stripped_from_arabic():
    assert strip_marks("مرحبًا كِتـاب") == "مرحبا كتاب"
    assert strip_marks("آكل أكلة رؤوف مئة") == "آكل أكلة رؤوف مئة"


def test_tatoeba_line_without_tab_is_refused_with_its_number(tmp_path):
    path = tmp_path / "bad.tsv"
    path.write_text("Hi.\tمرحبا.\tx\nno tab\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"bad\.tsv:2: expected English and Arabic"):
        read_tatoeba(path, strip=True)


def test_two_builds_are_byte_identical(built):
    first = sorted(p.relative_to(built / "first") for p in (built / "first").rglob("*.json*"))
    assert len(first) == 7
    for path in first:
        assert (built / "first" / path).read_bytes() == (built / "second" / path).read_bytes()


def test_built_files_have_their_columns(built):
    rows = [json.loads(line) for line in (built / "first/train.jsonl").open(encoding="utf-8")]
    assert [m["role"] for m in rows[0]["messages"]] == ["user", "assistant"]
    pairs = [json.loads(line) for line in (built / "first/pairs/heldout.jsonl").open()]
    assert set(pairs[0]) == {"en", "ar", "template"}


def test_model_is_counted_exactly_and_fits_in_12_megabytes(built):
    from transformers import Lfm2Config, Lfm2ForCausalLM

    folder = built / "first/init"
    values = json.loads((folder / "config.json").read_text())
    model = Lfm2ForCausalLM(Lfm2Config.from_pretrained(folder))
    assert sum(p.numel() for p in model.parameters()) == count_parameters(values)
    full = {**values, "vocab_size": 4096}
    assert count_parameters(full) > 5e6 and 2 * count_parameters(full) + 300_000 < 11.8e6


def test_missing_tatoeba_file_is_one_clear_line(tmp_path):
    result = CliRunner().invoke(
        app, ["build", "--out", str(tmp_path / "out"), "--tatoeba", str(tmp_path / "none.tsv")]
    )
    assert result.exit_code == 2
    assert not (tmp_path / "out").exists()
