"""The shipped model in FP8 is as good as in bf16, by the perplexity of held-out translations."""

from __future__ import annotations

from bench.fp8_quality import SHIPPED, compare
from hala_tools.miniature.score import drawn_heldout

PAIRS = 120


def test_perplexity_of_held_out_translations_moves_by_less_than_one_percent():
    rows = list(compare(SHIPPED, "held-out", drawn_heldout()[:PAIRS]))
    assert 1.0 < rows[0]["perplexity"] < 1.1
    assert [(row["weights"], row["activations"]) for row in rows[1:]] == [
        ("fp8-dynamic", "float32"),
        ("fp8-dynamic", "FP8"),
        ("fp8-block", "float32"),
        ("fp8-block", "FP8"),
    ]
    for row in rows[1:]:
        assert 0 < abs(row["change"]) < 0.01, row
