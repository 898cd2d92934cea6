import sqlite3

import pytest

from hala_engine.errors import JobError
from hala_engine.jobs.answers import Answer, Answers, discard

ANSWER = Answer("نص \ufffd", 5, 3, "stop")
SCORED = Answer("", 9, 1, "length", scores=(-0.1234567890123456, -12.0))
FAILED = Answer("", 9, 0, "error", "too long")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "answers.sqlite"


def test_what_was_committed_is_found_again(path):
    answers = Answers(path)
    for question, answer in {"a": ANSWER, "b \ud83d": SCORED, "c": FAILED}.items():
        answers.put(question, answer)
    answers.commit()
    answers.put("d", ANSWER)
    answers.close()
    answers = Answers(path)
    assert [answers.get(q) for q in ("a", "b \ud83d", "c", "d")] == [ANSWER, SCORED, FAILED, None]


def test_the_first_answer_to_a_question_stays(path):
    answers = Answers(path)
    for answer in (ANSWER, SCORED):
        answers.put("a", answer)
        answers.commit()
    assert answers.get("a") == ANSWER


def test_a_block_that_is_given_up_leaves_nothing(path):
    answers = Answers(path)
    answers.put("a", ANSWER)
    answers.forget()
    answers.commit()
    assert answers.get("a") is None


def test_a_damaged_file_is_begun_anew(path):
    path.write_bytes(b"not a database " * 1000)
    answers = Answers(path)
    answers.put("a", ANSWER)
    answers.commit()
    assert answers.get("a") == ANSWER


def test_a_full_disk_is_one_line(path):
    answers = Answers(path)
    answers._answers.execute("PRAGMA max_page_count = 8")
    for number in range(2000):
        answers.put(str(number), Answer("x" * 100, 1, 1, "stop"))
    with pytest.raises(JobError, match=r"answers.sqlite: .* full; finished shards are kept"):
        answers.commit()


def test_a_file_damaged_within_is_one_line_that_says_what_to_do(path):
    answers = Answers(path)
    for number in range(2000):
        answers.put(str(number), ANSWER)
    answers.commit()
    answers.close()
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (path.stat().st_size - 2 * 4096))
    answers = Answers(path)
    with pytest.raises(JobError, match=r"answers.sqlite: .*; finished shards .* delete that file"):
        answers.get("1000")
    answers.put("new", ANSWER)
    with pytest.raises(JobError, match=r"answers.sqlite: .*; finished shards .* delete that file"):
        answers.commit()


def test_a_file_that_cannot_be_opened_is_one_line_and_stays(tmp_path):
    (tmp_path / "answers.sqlite").mkdir()
    with pytest.raises(JobError, match=r"answers.sqlite: unable to open"):
        Answers(tmp_path / "answers.sqlite")
    assert (tmp_path / "answers.sqlite").is_dir()


def test_discard_removes_the_file_and_its_journal(path):
    discard(path)
    answers = Answers(path)
    answers.put("a", ANSWER)
    answers.commit()
    answers.close()
    discard(path)
    assert list(path.parent.iterdir()) == []


def test_it_is_a_plain_database(path):
    answers = Answers(path)
    answers.put("a", ANSWER)
    answers.commit()
    answers.close()
    [(text,)] = sqlite3.connect(path).execute("SELECT text FROM answers")
    assert text == ANSWER.text
