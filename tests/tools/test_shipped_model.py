"""The model in the package, through the command that a user calls: what its card claims holds on a
fresh sample of the grammar that training never saw."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from hala_tools.miniature.corpus import build_corpus, read_tatoeba
from hala_tools.miniature.score import measure, score_set, translate

SHIPPED = "hala-mini-en-ar"
AGREEMENT = Path(__file__).parent / "agreement_sentences.tsv"
# English, Arabic, attribution; not part of the project, see the README for where it is found.
TATOEBA_DEV = Path(
    os.environ.get("TATOEBA_DEV", Path(__file__).parents[3] / "shared/data/tatoeba/dev.tsv")
)


@pytest.fixture(scope="module")
def heldout():
    """Sentences with a held-out combination, drawn with another seed than the card's."""
    return [(sentence.en, sentence.ar) for sentence in build_corpus(6_000, seed=101).heldout]


@pytest.mark.parametrize(("source", "target"), [("en", "ar"), ("ar", "en")])
def test_held_out_scores(heldout, source, target):
    assert len(heldout) >= 200
    pairs = heldout if source == "en" else [(ar, en) for en, ar in heldout]
    outputs = translate(SHIPPED, [given for given, _ in pairs], source, target)
    result = measure(outputs, [[wanted] for _, wanted in pairs])
    assert result["metrics"]["chrF++"]["score"] >= 90
    assert result["exact"] >= 80


def test_agreement_in_hand_written_sentences():
    pairs = [line.split("\t") for line in AGREEMENT.read_text("utf-8").splitlines()]
    assert len(pairs) >= 24
    outputs = translate(SHIPPED, [english for english, _ in pairs], "en", "ar")
    right = [o == arabic for o, (_, arabic) in zip(outputs, pairs, strict=True)]
    assert sum(right) >= 20


@pytest.mark.skipif(not TATOEBA_DEV.exists(), reason="Tatoeba's dev.tsv is not on this machine")
@pytest.mark.parametrize(("source", "target", "least"), [("en", "ar", 28), ("ar", "en", 33)])
def test_scores_on_human_sentences(source, target, least):
    """Out of the grammar's domain: what the card says, less the spread of a sample."""
    pairs = random.Random(0).sample(read_tatoeba(TATOEBA_DEV, strip=False), 300)
    assert score_set(SHIPPED, pairs, source, target)["metrics"]["chrF++"]["score"] >= least
