"""Tokenised once, kept as files, read as maps; over-long rows are refused or counted."""

import json
import threading
from dataclasses import fields

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hala_trainer.config import DataConfig, SourceConfig
from hala_trainer.data import cache
from hala_trainer.data.chat import ChatRenderer
from hala_trainer.data.documents import Corpus, Documents, load_corpus
from hala_trainer.errors import InputError
from tests.trainer.conftest import CHATML, tiny_tokenizer

KEYS = {f.name for f in fields(SourceConfig)}


def row(prompt="abc?", response="abc abc") -> dict:
    return {"prompt": prompt, "response": response}


def write(path, rows):
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


@pytest.fixture
def load(tokenizer, tmp_path):
    """Loads files of tmp_path as a run would. An entry is a name, or it and a source's keys; these
    may be given for all entries too."""

    def load(*entries, limit=0, tokenizer=tokenizer, tell=lambda text: None, **settings) -> Corpus:
        shared = {key: settings.pop(key) for key in list(settings) if key in KEYS}
        sources = []
        for entry in entries:
            name, own = (entry, {}) if isinstance(entry, str) else entry
            sources.append(SourceConfig(str(tmp_path / name), **shared | own))
        data = DataConfig(train=sources, **{"seq_len": 1024} | settings)
        return load_corpus(sources, tokenizer, data, tmp_path / "cache", limit, tell)

    return load


def contents(corpus: Corpus) -> list:
    return [[part.tolist() for part in corpus.get(i)] for i in range(len(corpus))]


def test_jsonl_parquet_and_memory_agree(load, tokenizer, tmp_path):
    rows = [row(), row("b", "ab" * 9), row("", "")]
    write(tmp_path / "a.jsonl", rows)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "b.parquet")
    talks = [
        (
            "",
            [
                {"role": "user", "content": r["prompt"]},
                {"role": "assistant", "content": r["response"]},
            ],
        )
        for r in rows
    ]
    encoded = ChatRenderer(tokenizer).encode(talks)
    cuts = np.cumsum(encoded.lengths)[:-1]
    expected = [
        [ids.tolist(), learnt.tolist()]
        for ids, learnt in zip(
            np.split(encoded.ids, cuts), np.split(encoded.supervised, cuts), strict=True
        )
    ]
    assert contents(load("a.jsonl")) == contents(load("b.parquet")) == expected


def test_a_corpus_numbers_its_sources_through(load, tmp_path):
    (tmp_path / "folder").mkdir()
    write(tmp_path / "folder" / "a.jsonl", [row("a"), row("b")])
    write(tmp_path / "folder" / "b.jsonl", [])
    write(tmp_path / "folder" / "c.jsonl", [row("c")])
    write(tmp_path / "d.jsonl", [row("d"), row("e" * 5)])
    corpus = load("folder", "d.jsonl")
    assert corpus.starts.tolist() == [0, 3]
    assert corpus.sizes.tolist() == [3, 2]
    assert len(corpus) == 5
    alone = [
        c for name in ("folder/a.jsonl", "folder/c.jsonl", "d.jsonl") for c in contents(load(name))
    ]
    assert contents(corpus) == alone
    assert corpus.lengths.tolist() == [len(ids) for ids, _ in alone]
    assert [(s.name, s.documents, s.dropped) for s in corpus.sources] == [
        (f"{tmp_path}/folder", 3, 0),
        (f"{tmp_path}/d.jsonl", 2, 0),
    ]
    assert corpus.sources[0].tokens == sum(corpus.lengths[:3])


def test_tokens_are_memory_mapped_and_never_copied(load, tmp_path):
    write(tmp_path / "a.jsonl", [row("a" * n) for n in (1, 99, 2)])
    corpus = load("a.jsonl", seq_len=40, overlong="drop")
    ids, learnt = corpus.get(1)
    assert (ids.dtype, learnt.dtype) == (np.uint16, bool)
    for array in (ids, learnt):
        assert isinstance(array.base.base, np.memmap)


def test_a_large_vocabulary_is_kept_in_four_bytes(load, tmp_path):
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens([f"w{i}" for i in range(2**16)])
    write(tmp_path / "a.jsonl", [row("w65535", "w65535")])
    ids, learnt = load("a.jsonl", tokenizer=tokenizer).get(0)
    assert ids.dtype == np.uint32
    assert tokenizer.decode(ids[learnt]) == "w65535<|im_end|>"


def test_the_cache_is_used(load, tmp_path, monkeypatch):
    write(tmp_path / "a.jsonl", [row()])
    first = contents(load("a.jsonl"))
    monkeypatch.setattr(ChatRenderer, "encode", None)  # a second look must not tokenise
    assert contents(load("a.jsonl")) == first


def test_the_cache_follows_content_template_columns_and_limit(load, tmp_path):
    file = write(tmp_path / "a.jsonl", [row("a", "b"), row("a", "b")])
    first = contents(load("a.jsonl"))
    assert len(load("a.jsonl", limit=1)) == 1
    assert contents(load("a.jsonl", prompt_column="response")) != first
    assert contents(load("a.jsonl", prompt_template="say {prompt}")) != first
    with pytest.raises(InputError, match="drop_flagged"):
        load("a.jsonl", drop_flagged=True)
    assert contents(load("a.jsonl")) == first
    other = tiny_tokenizer()
    other.chat_template = CHATML.replace("<|im_start|>", "<|a|>")
    assert contents(load("a.jsonl", tokenizer=other)) != first
    write(file, [row("a", "c"), row("a", "b")])
    again = contents(load("a.jsonl"))
    assert again[0] != first[0]
    assert again[1] == first[1]


@pytest.mark.parametrize("name", ["ids.bin", "supervised.bin", "offsets.bin", "meta.json"])
@pytest.mark.parametrize("damage", ["gone", "cut"])
def test_a_damaged_cache_is_made_again(load, tmp_path, name, damage):
    write(tmp_path / "a.jsonl", [row()])
    first = contents(load("a.jsonl"))
    (file,) = (tmp_path / "cache").glob(f"a-*/{name}")
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-1])
    assert contents(load("a.jsonl")) == first
    assert [p.name for p in (tmp_path / "cache").iterdir() if p.is_dir()] == [file.parent.name]


def test_what_a_killed_run_left_is_taken_away(load, tmp_path):
    write(tmp_path / "a.jsonl", [row()])
    first = contents(load("a.jsonl"))
    (kept,) = (tmp_path / "cache").glob("a-*")
    kept.rename(left := kept.with_name(f".{kept.name}.new"))
    (left / "ids.bin").write_bytes(b"half")
    assert contents(load("a.jsonl")) == first
    assert not left.exists()


def test_a_bad_row_leaves_no_cache_that_looks_whole(load, tmp_path):
    file = write(tmp_path / "a.jsonl", [row(), {"prompt": "a"}])
    for _ in range(2):
        with pytest.raises(InputError, match=r"a\.jsonl line 2"):
            load("a.jsonl")
    write(file, [row()])
    assert len(load("a.jsonl")) == 1


def test_two_that_ask_at_once_tokenise_once(tokenizer, tmp_path, monkeypatch):
    file = write(tmp_path / "a.jsonl", [row(), row("b")])
    renderer, calls, start = ChatRenderer(tokenizer), [], threading.Barrier(4)
    encode = renderer.encode
    monkeypatch.setattr(renderer, "encode", lambda rows: calls.append(len(rows)) or encode(rows))
    found = []

    def ask():
        start.wait()
        found.append(cache.tokenised(file, renderer, SourceConfig(), tmp_path / "cache", 0, print))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert calls == [2]
    assert len(found) == 4
    assert all(arrays.ids.tolist() == found[0].ids.tolist() for arrays in found)


def test_tokenising_goes_chunk_by_chunk_and_tells_how_far_it_came(load, tmp_path, monkeypatch):
    write(tmp_path / "a.jsonl", [row("a" * n) for n in range(7)])
    whole = contents(load("a.jsonl"))
    (tmp_path / "b.jsonl").write_bytes((tmp_path / "a.jsonl").read_bytes() + b"\n")
    monkeypatch.setattr(cache, "CHUNK_ROWS", 2)
    monkeypatch.setattr(cache, "TELL_ROWS", 3)
    told = []
    assert contents(load("b.jsonl", tell=told.append)) == whole
    assert [text.split(": ")[1].split(",")[0] for text in told] == ["4 rows", "6 rows"]


def test_a_cache_that_cannot_be_written_is_one_line(load, tmp_path):
    write(tmp_path / "a.jsonl", [row()])
    (tmp_path / "cache").write_text("a file in the way")
    with pytest.raises(
        InputError, match=r"cache: tokenised data cannot be kept there .*data\.cache"
    ):
        load("a.jsonl")


def test_a_row_longer_than_seq_len_is_refused_with_its_place(load, tmp_path):
    (tmp_path / "f").mkdir()
    write(tmp_path / "f" / "a.jsonl", [row()])
    file = tmp_path / "f" / "b.jsonl"
    file.write_text("\n".join(["", json.dumps(row()), "", json.dumps(row("b" * 1500)), ""]))
    write(tmp_path / "f" / "c.jsonl", [row("b" * 2000)])
    with pytest.raises(InputError) as caught:
        load("f", seq_len=100)
    length = len(load("f/b.jsonl", seq_len=4096).get(1)[0])
    assert str(caught.value) == (
        f"{file} line 4: {length:,} tokens, data.seq_len is 100 (2 of 4 rows are longer); "
        'raise data.seq_len or set data.overlong = "drop"'
    )


def test_longer_rows_are_dropped_and_counted_when_asked(load, tmp_path):
    write(tmp_path / "a.jsonl", [row("a" * n) for n in (500, 1, 600, 2, 700)])
    write(tmp_path / "b.jsonl", [row()])
    corpus = load("a.jsonl", "b.jsonl", seq_len=64, overlong="drop")
    whole = contents(load("a.jsonl", "b.jsonl"))
    assert contents(corpus) == [whole[i] for i in (1, 3, 5)]
    assert [(s.documents, s.dropped) for s in corpus.sources] == [(2, 3), (1, 0)]
    assert corpus.sizes.tolist() == [2, 1]
    assert corpus.sources[0].tokens == corpus.lengths[:2].sum()


def test_a_row_of_seq_len_tokens_fits(load, tmp_path):
    write(tmp_path / "a.jsonl", [row("a" * 99)])
    length = int(load("a.jsonl").lengths[0])
    assert len(load("a.jsonl", seq_len=length)) == 1
    with pytest.raises(InputError, match=r"\(1 of 1 rows are longer\)"):
        load("a.jsonl", seq_len=length - 1)


@pytest.mark.parametrize(
    ("rows", "said"),
    [([], "no rows"), ([row("a" * 99)], "every row is longer than data.seq_len = 8")],
)
def test_a_source_without_documents_is_refused(load, tmp_path, rows, said):
    write(tmp_path / "a.jsonl", rows)
    with pytest.raises(InputError, match=f"a.jsonl: {said}"):
        load("a.jsonl", seq_len=8, overlong="drop")


def test_a_wrong_name_is_told_before_anything_is_tokenised(load, tmp_path, monkeypatch):
    monkeypatch.setattr(ChatRenderer, "encode", None)
    write(tmp_path / "a.jsonl", [row()])
    with pytest.raises(InputError, match="none: no such data file or folder"):
        load("a.jsonl", "none")


def test_a_limit_takes_the_first_rows_of_each_source(load, tmp_path):
    (tmp_path / "f").mkdir()
    for name in "ab":
        write(tmp_path / "f" / f"{name}.jsonl", [row(name * n) for n in (1, 2, 3)])
    write(tmp_path / "c.jsonl", [row()] * 9)
    whole = contents(load("f"))
    corpus = load("f", "c.jsonl", limit=4)
    assert corpus.sizes.tolist() == [4, 4]
    assert contents(corpus)[:4] == whole[:4]
    assert load("f", limit=3).sizes.tolist() == [3]


def test_a_folder_may_be_two_sources_with_other_columns(load, tmp_path):
    (tmp_path / "f").mkdir()
    pairs = [{"q": "a", "q_ar": "b", "r": "c c", "r_ar": "abc"}, {"q": "b", "r": "c"}]
    pairs[1] |= {"q_ar": "a b", "r_ar": "c"}
    write(tmp_path / "f" / "a.jsonl", pairs)
    entries = [
        ("f", {"prompt_column": name, "response_column": f"{name}_ar", "prompt_template": template})
        for name, template in (("q", "{prompt}"), ("r", "say {prompt}"))
    ]
    both = load(*entries)
    alone = [load(entry) for entry in entries]
    assert both.sizes.tolist() == [2, 2]
    assert contents(both) == contents(alone[0]) + contents(alone[1])
    assert contents(alone[0]) != contents(alone[1])
    names = [f"{tmp_path}/f (q, q_ar)", f"{tmp_path}/f (r, r_ar)"]
    assert [source.name for source in both.sources] == names


def test_the_cache_serves_another_weight_and_another_path_to_the_same_file(
    load, tmp_path, monkeypatch
):
    write(tmp_path / "a.jsonl", [row()])
    first = contents(load("a.jsonl"))
    monkeypatch.setattr(ChatRenderer, "encode", None)
    assert contents(load(("../" + tmp_path.name + "/a.jsonl", {"weight": 2.0}))) == first


def flagged(flags: list, **changes) -> dict:
    return row(**changes) | {"_hala": {"flags": flags}}


def test_flagged_rows_are_no_documents_and_are_counted(load, tmp_path):
    rows = [flagged([]), flagged(["truncated"]), flagged([], response="abc"), flagged(["empty"])]
    write(tmp_path / "a.jsonl", rows)
    whole = contents(load("a.jsonl"))
    for _ in range(2):  # the second time from the cache
        corpus = load("a.jsonl", drop_flagged=True)
        assert contents(corpus) == [whole[0], whole[2]]
        assert [(s.documents, s.dropped, s.flagged) for s in corpus.sources] == [(2, 0, 2)]
    assert len(load("a.jsonl", drop_flagged=True, limit=2)) == 2


def test_a_longer_row_is_named_by_its_line_among_flagged_ones(load, tmp_path):
    rows = [flagged(["empty"]), flagged([]), flagged(["empty"]), flagged([], response="a" * 99)]
    write(tmp_path / "a.jsonl", rows)
    with pytest.raises(InputError, match=r"a\.jsonl line 4: 1\d\d tokens"):
        load("a.jsonl", drop_flagged=True, seq_len=64)


def test_a_source_of_flagged_rows_alone_is_refused(load, tmp_path):
    write(tmp_path / "a.jsonl", [flagged(["empty"]), flagged([], response=None)])
    with pytest.raises(InputError, match=r"a\.jsonl: drop_flagged leaves none of 2 rows: "):
        load("a.jsonl", drop_flagged=True)


def test_documents_can_be_narrowed_twice():
    docs = Documents(np.arange(10), np.zeros(10, bool), np.array([0, 1, 3, 6, 10]))
    twice = docs.where(docs.lengths > 1).where(np.array([True, False, True]))
    assert twice.lengths.tolist() == [2, 4]
    assert [twice.get(i)[0].tolist() for i in range(len(twice))] == [[1, 2], [6, 7, 8, 9]]
    assert np.shares_memory(twice.get(0)[0], docs.ids)
    assert Corpus([docs, twice]).get(5)[0].tolist() == [6, 7, 8, 9]
