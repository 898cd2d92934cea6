"""The command of the manifest: given to the command line, it is the same configuration again."""

import shlex
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from other_configurations import (
    CASE_IDS,
    CASES,
    JUDGE,
    OTHER_JUDGE,
    OTHER_TRANSLATE,
    TRANSLATE,
    changed,
    leaves,
)

import hala_engine.judge
import hala_engine.translate
from hala_engine.cli import main
from hala_engine.jobs.command_line import command_line
from hala_engine.jobs.job import JobResult
from hala_engine.jobs.manifest import Totals

NOT_SAID = {"overwrite"}
"""What a job makes does not depend on it, and who repeats a command may have files to lose."""


def understood(command):
    """The configuration that the command line makes of a command."""
    seen = []

    def note(config, *, quiet):
        seen.append(config)
        return JobResult("out", Totals.of([]), Totals.of([]), True)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hala_engine.translate, "translate_job", note)
        patch.setattr(hala_engine.judge, "judge_job", note)
        patch.setattr("sys.argv", shlex.split(command))
        with pytest.raises(SystemExit) as ended:
            main()
    assert ended.value.code == 0, command
    [config] = seen
    return config


@pytest.mark.parametrize(
    ("config", "others"),
    [(TRANSLATE, OTHER_TRANSLATE), (JUDGE, OTHER_JUDGE)],
    ids=["translate", "judge"],
)
def test_every_field_has_another_value_to_be_tested_with(config, others):
    plain = dict(leaves(config))
    assert plain.keys() - others.keys() == NOT_SAID
    assert all(plain[name] != value for name, value in others.items())


@pytest.mark.parametrize(("config", "name", "value"), CASES, ids=CASE_IDS)
def test_every_field_comes_back(config, name, value):
    config = changed(config, name, value)
    config.validate()
    assert understood(command_line(config)) == config


@pytest.mark.parametrize(
    ("config", "others"),
    [(TRANSLATE, OTHER_TRANSLATE), (JUDGE, OTHER_JUDGE)],
    ids=["translate", "judge"],
)
def test_all_fields_at_once_come_back(config, others):
    for name, value in others.items():
        config = changed(config, name, value)
    config.validate()
    assert understood(command_line(config)) == config


@pytest.mark.parametrize(
    ("columns", "messages"),
    [(("text",), None), ((), "chats"), (("text",), "chats"), (("a", "text"), "chats")],
)
def test_columns_come_back_with_and_without_chats(columns, messages):
    config = replace(TRANSLATE, columns=columns, messages_column=messages)
    config.validate()
    assert understood(command_line(config)) == config


def test_defaults_are_not_said():
    plain = "hala-engine translate in.jsonl --output out --columns text"
    assert command_line(TRANSLATE) == plain
    assert command_line(replace(TRANSLATE, overwrite=True)) == plain
    assert command_line(JUDGE) == (
        "hala-engine judge in.jsonl --output out --model m --source-column en --target-column ar"
    )


ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"))


@settings(max_examples=60, deadline=None)
@given(before=ANY_TEXT, system=ANY_TEXT, stop=st.lists(ANY_TEXT.filter(bool), max_size=3))
def test_any_text_comes_back_from_a_shell(before, system, stop):
    config = replace(TRANSLATE, prompt=before + "{text}", system=system)
    config = changed(config, "generation.stop", tuple(stop))
    assert understood(command_line(config)) == config
