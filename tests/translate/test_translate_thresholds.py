"""Each threshold of the command moves the flag that it says, and belongs to what the job is; and
the flag without a threshold: when a row is `empty`."""

import fake_engine
import pytest
from translate_jobs import read_rows

from hala_engine.cli import main
from hala_engine.translate.documents import Document

SENTENCE = "Nobody knows how far the old road really goes"
ARABIC = "لا أحد يعرف إلى أي مدى يمتد الطريق القديم"
HALF_LATIN = "هذه كلمات قليلة along with words"
COPIED = "قال الرجل العجوز إن how far the old road هو كل شيء عنده"
LOOP = "لا أحد نعم نعم نعم نعم نعم نعم يعرف الطريق"
# Sentences that share most of their words: they squeeze to 0.22 of their bytes.
ALIKE = " ".join(
    f"البيت {color} يقف قرب النهر {size} في القرية."
    for color in ("الأبيض", "الأحمر", "الأسود")
    for size in ("الطويل", "القصير")
)
PROSE = (
    "Six houses stand near two rivers of the village; the white one belongs to a miller, its red "
    "neighbour was built by fishermen long ago, and nobody remembers who lived behind black walls "
    "where the short stream joins a longer one before both reach our sea."
)
# flag, (stricter, laxer) than the default or the default itself, what is said, what is flagged
THRESHOLDS = {
    "--min-length-ratio": (("0.95", "0"), SENTENCE, ARABIC, "length_ratio"),
    "--max-length-ratio": (("0.8", "5"), SENTENCE, ARABIC, "length_ratio"),
    "--min-script-share": (("0.9", "0.1"), SENTENCE, HALF_LATIN, "wrong_script"),
    "--max-loop-words": (("6", "7"), SENTENCE, LOOP, "repetition"),
    "--min-compression": (("0.3", "0.2"), PROSE, ALIKE, "repetition"),
    "--max-copied-words": (("5", "6"), SENTENCE, COPIED, "untranslated"),
}


@pytest.fixture
def command(engine, tmp_path, write_rows, monkeypatch, capsys):
    """Run the command on a text to which the model answers so; its exit code and complaint."""

    def run(source, answer, *flags):
        monkeypatch.setattr(fake_engine, "fake_translation", lambda text: answer)
        path = write_rows([{"text": source}])
        words = ["hala-engine", "translate", path, "--output", tmp_path / "out", *flags]
        monkeypatch.setattr("sys.argv", [str(word) for word in words])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code, capsys.readouterr().err

    return run


def flags_in(output):
    [row] = read_rows(output)
    return row["_hala"]["flags"]


@pytest.mark.parametrize("flag", THRESHOLDS)
def test_a_stricter_threshold_sets_its_flag_and_a_laxer_one_does_not(tmp_path, command, flag):
    values, source, answer, name = THRESHOLDS[flag]
    for value, expected in zip(values, ([name], []), strict=True):
        code, _ = command(source, answer, flag, value, "--overwrite")
        assert code == 0
        assert flags_in(tmp_path / "out") == expected


@pytest.mark.parametrize("flag", THRESHOLDS)
def test_another_threshold_is_another_job(tmp_path, command, flag):
    (strict, lax), source, answer, _ = THRESHOLDS[flag]
    assert command(source, answer, flag, strict)[0] == 0
    before = (tmp_path / "out/data/part-00000.jsonl").read_bytes()
    for other in ([flag, lax], []):
        code, complaint = command(source, answer, *other)
        assert code == 2
        assert f"{flag}: {float(strict):g}" in complaint.replace(".0 ->", " ->")
    assert (tmp_path / "out/data/part-00000.jsonl").read_bytes() == before
    assert command(source, answer, flag, strict)[0] == 0


BAD = {
    "--min-length-ratio": "-1",
    "--max-length-ratio": "0",
    "--min-script-share": "1.5",
    "--max-loop-words": "1",
    "--min-compression": "-0.1",
    "--max-copied-words": "1",
}


@pytest.mark.parametrize("flag", BAD)
def test_a_threshold_that_cannot_be_is_refused_by_name(tmp_path, command, flag):
    code, complaint = command(SENTENCE, ARABIC, flag, BAD[flag])
    assert code == 2
    assert f"{flag} {BAD[flag]}: " in complaint
    assert not (tmp_path / "out").exists()


def test_ratios_that_no_text_meets_are_refused(command):
    code, complaint = command(
        SENTENCE, ARABIC, "--min-length-ratio", "2", "--max-length-ratio", "1"
    )
    assert code == 2
    assert "--min-length-ratio 2 is above --max-length-ratio 1" in complaint


def test_every_threshold_is_tested_here():
    from hala_engine.translate import CheckOptions

    names = {f"--{name.replace('_', '-')}" for name in CheckOptions.__dataclass_fields__}
    assert names == THRESHOLDS.keys() == BAD.keys()


def test_the_length_ratios_given_hold_for_texts_of_every_length(tmp_path, command):
    """In place of those that depend on the source's length."""
    for source, answer in (("Hi", "مرحبا"), (SENTENCE * 20, ARABIC * 23)):
        assert command(source, answer, "--overwrite")[0] == 0
        without = flags_in(tmp_path / "out")
        flags = ("--max-length-ratio", "1.01", "--max-loop-words", "9999", "--overwrite")
        assert command(source, answer, *flags)[0] == 0
        assert "length_ratio" in flags_in(tmp_path / "out")
        assert "length_ratio" not in without


EMPTY = {
    "a word in every column": ({"a": "hello", "b": "there"}, []),
    "one blank among others": ({"a": "hello", "b": " \n"}, []),
    "one null among others": ({"a": None, "b": "there"}, []),
    "one missing among others": ({"b": "there"}, []),
    "all blank": ({"a": "", "b": "\t\u00a0\n"}, ["empty"]),
    "all null": ({"a": None, "b": None}, ["empty"]),
    "code alone": ({"a": "`x = 1`", "b": ""}, []),
    "numbers and signs": ({"a": "12:30", "b": "--- ..."}, []),
    "a blank one beside a failed one": ({"a": "", "b": 5}, []),
    "nothing came back for one": ({"a": "say nothing", "b": "there"}, ["empty", "structure_lost"]),
    "white space came back for one": ({"a": "say blank", "b": ""}, ["empty", "structure_lost"]),
}


@pytest.mark.parametrize("name", EMPTY)
def test_a_row_is_empty_when_there_was_nothing_to_translate_or_nothing_came_back(
    tmp_path, translate, write_rows, monkeypatch, name
):
    answers = {"say nothing": "", "say blank": " \u00a0\n "}
    monkeypatch.setattr(fake_engine, "fake_translation", lambda text: answers.get(text, "كلمة"))
    row, expected = EMPTY[name]
    path = write_rows([{"a": "hello", "b": "there"}, row])
    translate(path, columns=("a", "b"))
    flags = [written["_hala"]["flags"] for written in read_rows(tmp_path / "out")]
    assert flags == [[], expected]


def test_a_lost_placeholder_is_flagged(tmp_path, translate, write_rows, monkeypatch):
    """No model can lose one, since pieces are cut until they hold none; should one be lost, it is
    told."""
    finished = Document.translation
    monkeypatch.setattr(
        Document, "translation", lambda self: finished(self)._replace(placeholder_lost=True)
    )
    translate(write_rows([{"text": "Run `x` now"}]))
    assert flags_in(tmp_path / "out") == ["placeholder_lost"]
