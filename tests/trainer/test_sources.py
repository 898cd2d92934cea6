"""Sources with columns, weights and flags of their own, from the recipe through a whole run."""

import json

import pytest

from hala_trainer.__main__ import run
from hala_trainer.evaluation import held_out_prompts
from hala_trainer.recipe import load_recipe


@pytest.fixture
def translated(tmp_path):
    """As hala-engine translate leaves a folder: 24 rows of two texts, a third of them flagged."""
    folder = tmp_path / "translated"
    (folder / "data").mkdir(parents=True)
    rows = [
        {
            "pair": {"en": f"say {'ab' * (n % 7)}", "ar": "c" * (n % 5)},
            "note": "abc",
            "note_ar": f"cba {n}",
            "_hala": {"id": n, "flags": ["truncated"] if n % 3 == 0 else []},
        }
        for n in range(24)
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "data" / "part-00000.jsonl").write_text(text)
    (folder / "manifest.json").write_text("{}")
    return folder


def test_one_folder_is_trained_on_as_two_sources(recipe_file, translated, tmp_path, capsys):
    pair = f'{{path="{translated}", prompt_column="pair.en", response_column="pair.ar"'
    note = f'{{path="{translated}", prompt_column="note", response_column="note_ar"'
    train = f"data.train=[{pair}, drop_flagged=true}}, {note}, weight=2}}]"
    overrides = [train, f"data.eval={pair}}}", "data.packing=none", "train.steps=0"]
    assert run(recipe_file, [*overrides, "train.epochs=1"], debug=True) == 0
    said = capsys.readouterr().err
    assert f"{translated} (pair.en, pair.ar): 16 documents, " in said
    assert "tokens; 8 flagged left out" in said
    assert f"{translated} (note, note_ar): 24 documents, " in said
    # 16 once and 24 twice, a document a row, four rows a step
    steps = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    assert max(row["step"] for row in steps) == (16 + 2 * 24) / 4
    assert len(list((tmp_path / "run" / "cache").glob("part-00000-*"))) == 3


def test_prompts_to_answer_are_read_by_the_columns_of_their_own_source(
    recipe_file, translated, chat_file
):
    pair = f'{{path="{translated}", prompt_column="pair.en", response_column="pair.ar"'
    entry = f'{pair}, prompt_template="to Arabic: {{prompt}}", drop_flagged=true}}'
    recipe = load_recipe(recipe_file, [f'data.eval=[{entry}, "{chat_file}"]', "log.samples=17"])
    prompts, expected = held_out_prompts(recipe)
    assert prompts[0] == [{"role": "user", "content": "to Arabic: say ab"}]
    assert (expected[0], len(prompts)) == ("c", 17)
    assert (prompts[16][0]["content"], expected[16]) == ("say a", "A")
