"""The hand-written rows of tests/data, and texts made of what markup is made of."""

import json
from pathlib import Path

from hypothesis import strategies as st

from hala_engine.translate.masking import HOLE

ROWS = Path(__file__).parents[1] / "data" / "instructions.jsonl"

MARKUP = st.lists(
    st.one_of(
        st.sampled_from(
            [
                *("\n", "\r\n", "\r", "\u2028", " ", "  ", "\t", "\u00a0", HOLE, "a", "b c", "نص"),
                *("- ", "* ", "• ", "1. ", "١) ", "(a) ", "[ ] ", "[x] ", "# ", "### ", " ##"),
                *("> ", "|", "\\|", "|---|:-:|", "---", "***", "**", "*", "_", "~~", '"', "“", "”"),
                *("User: ", "\u200f", "\u2067", "\u2069", "\ufeff", "\u0651", "[^1]: ", "\ud800"),
            ]
        ),
        st.text(max_size=3),
    ),
    max_size=30,
).map("".join)


def strings(value):
    """Every text inside a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from strings(inner)


def corpus():
    with ROWS.open(encoding="utf-8") as lines:
        return [text for line in lines for text in strings(json.loads(line))]
