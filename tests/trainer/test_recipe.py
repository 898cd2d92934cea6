"""Sources of a recipe: paths and tables, on the command line too; what is written loads back."""

from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hala_trainer.config import SourceConfig, check
from hala_trainer.recipe import load_recipe, to_toml

PLAIN = """
[model]
path = "m"
[data]
train = ["a"]
[train]
out = "out"
steps = 1
"""
# All characters but halves of surrogate pairs, which no TOML file holds; odd ones more often.
TEXT = st.text(
    st.sampled_from('"\\\\\x00\x07\x1f\x7f\x85\u2028\n\r\t{}[]=#,.\u0643')
    | st.characters(exclude_categories=["Cs"])
)
COLUMNS = st.lists(TEXT.filter(lambda text: text and "." not in text), min_size=1).map(".".join)
SOURCES = st.builds(
    SourceConfig,
    path=TEXT.filter(bool),
    weight=st.floats(0, exclude_min=True, allow_infinity=False),
    messages_column=COLUMNS,
    prompt_column=COLUMNS,
    response_column=COLUMNS,
    prompt_template=st.tuples(TEXT, TEXT).map("{prompt}".join),
    drop_flagged=st.booleans(),
) | TEXT.filter(bool).map(SourceConfig)


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """Reads the text of a recipe, with overrides."""
    path = tmp_path_factory.mktemp("recipe") / "recipe.toml"

    def load(text: str, *overrides: str):
        path.write_text(text, encoding="utf-8")
        return load_recipe(path, list(overrides))

    return load


def test_an_entry_is_a_path_or_a_table(load):
    train = 'train = ["a", {path = "b", weight = 2, drop_flagged = true}]'
    recipe = load(PLAIN.replace('train = ["a"]', train))
    assert recipe.data.train == [
        SourceConfig("a"),
        SourceConfig("b", weight=2.0, drop_flagged=True),
    ]
    tables = "\n[[data.eval]]\npath = 'a'\n[[data.eval]]\npath = 'b'\nprompt_column = 'en'"
    expected = [SourceConfig("a"), SourceConfig("b", prompt_column="en")]
    assert load(PLAIN + tables).data.eval == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("rows.jsonl", [SourceConfig("rows.jsonl")]),
        ('"rows.jsonl"', [SourceConfig("rows.jsonl")]),
        ('["a b", "c"]', [SourceConfig("a b"), SourceConfig("c")]),
        ('{path="b", weight=0.5}', [SourceConfig("b", weight=0.5)]),
        (
            '["a", {path="b", weight=2, prompt_column="x.y"}]',
            [SourceConfig("a"), SourceConfig("b", weight=2.0, prompt_column="x.y")],
        ),
    ],
)
def test_sources_on_the_command_line(load, text, expected):
    assert load(PLAIN, f"data.train={text}").data.train == expected


@settings(max_examples=150, deadline=None)
@given(st.lists(SOURCES, min_size=1, max_size=3), st.lists(SOURCES, max_size=2))
@example([SourceConfig("a", weight=1e22), SourceConfig("a", weight=5e-324)], [])
def test_what_is_written_loads_as_it_was(load, train, held_out):
    recipe = load(PLAIN)
    held_out = [replace(source, weight=1.0) for source in held_out]
    recipe = replace(recipe, data=replace(recipe.data, train=train, eval=held_out))
    check(recipe)
    assert load(to_toml(recipe)) == recipe


def test_a_plain_source_is_written_as_its_path_and_defaults_are_left_out(load):
    recipe = load(PLAIN, 'data.train=["a", {path="b", weight=1, prompt_column="q"}]')
    assert 'train = ["a", {path = "b", prompt_column = "q"}]\n' in to_toml(recipe)


def test_a_source_is_called_by_its_path_and_the_columns_chosen():
    assert SourceConfig("a", weight=2.0, prompt_template="x {prompt}").name == "a"
    assert SourceConfig("a", messages_column="chat").name == "a (chat)"
    assert SourceConfig("a", prompt_column="q", response_column="r").name == "a (q, r)"
