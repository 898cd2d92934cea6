"""The model card: what the hub reads of it, and what people do."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard

import hala_engine
from hala_tools.slerp.card import model_card
from hala_tools.slerp.report import Report, TensorReport

REPORT = Report(
    "org/base",
    "org/tuned",
    "strict",
    12.5,
    1000,
    (TensorReport("a.weight", (5, 5), "F32", None, 0.5, 0.98, (1.0, 2.0), (0.5, 0.5), "slerp"),),
)
MERGE = "merge_method: slerp\nbase_model: org/base\nparameters: {t: 0.5}\n"


def card(
    base: str = "org/base",
    tuned: str = "org/tuned",
    merge_file: str = MERGE,
    report: Report = REPORT,
    base_readme: Path | None = None,
) -> str:
    return model_card(
        name="merged",
        base=base,
        tuned=tuned,
        merge_file=merge_file,
        report=report,
        base_readme=base_readme,
    )


def loaded(tmp_path: Path, text: str) -> ModelCard:
    (tmp_path / "README.md").write_text(text, encoding="utf-8")
    return ModelCard.load(tmp_path / "README.md")


@pytest.fixture
def readme(tmp_path):
    """Writes the base's card."""

    def write(text: str, encoding: str = "utf-8") -> Path:
        path = tmp_path / "base.md"
        path.write_bytes(text.encode(encoding))
        return path

    return write


def test_hub_reads_what_the_model_is_and_comes_from(tmp_path):
    assert loaded(tmp_path, card()).data.to_dict() == {
        "library_name": "transformers",
        "base_model": ["org/base", "org/tuned"],
        "base_model_relation": "merge",
        "tags": ["merge", "slerp", "hala-engine"],
    }


def test_revision_is_told_to_people_and_left_out_of_the_ids(tmp_path):
    read = loaded(tmp_path, card(tuned="org/tuned@v1.0"))
    assert read.data.base_model == ["org/base", "org/tuned"]
    assert "(https://huggingface.co/org/tuned) at revision `v1.0`" in read.text


def test_local_models_are_named_but_are_no_hub_ids(tmp_path):
    read = loaded(tmp_path, card(tuned="/runs/one/final"))
    assert read.data.base_model == ["org/base"]
    assert "`/runs/one/final`" in read.text
    both = loaded(tmp_path, card("/runs/base", "/runs/tuned")).data.to_dict()
    assert "base_model" not in both and "base_model_relation" not in both


def test_directory_whose_name_looks_like_a_hub_id_is_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "tuned").mkdir(parents=True)
    read = loaded(tmp_path, card(tuned="runs/tuned"))
    assert read.data.base_model == ["org/base"]
    assert "`runs/tuned`" in read.text


def test_terms_and_languages_are_those_of_the_base(tmp_path, readme):
    path = readme(
        "---\nlicense: other\nlicense_name: lfm1.0\nlicense_link: LICENSE\n"
        "language: [ar, no]\npipeline_tag: text-generation\ntags: [x]\ndatasets: [y]\n---\n# Base\n"
    )
    data = loaded(tmp_path, card(base_readme=path)).data.to_dict()
    assert data["license"] == "other"
    assert data["license_name"] == "lfm1.0"
    assert data["license_link"] == "LICENSE"
    assert data["language"] == ["ar", "no"]
    assert data["pipeline_tag"] == "text-generation"
    assert data["tags"] == ["merge", "slerp", "hala-engine"]
    assert "datasets" not in data


def test_front_matter_of_the_shipped_model_is_understood(tmp_path):
    path = Path(hala_engine.__file__).parent / "assets" / "hala-mini-en-ar" / "README.md"
    data = loaded(tmp_path, card(base_readme=path)).data
    assert (data.license, data.language) == ("apache-2.0", ["en", "ar"])


@pytest.mark.parametrize(
    "text",
    [
        "# No front matter\n",
        "---\nlicense: [unclosed\n---\n",
        "---\n- a list\n---\n",
        "---\nlicense: 3\nlanguage: {en: 1}\n---\n",
        "---\n---\n",
        "---\nlicense: mit\nand no end",
    ],
)
def test_front_matter_that_is_not_valid_is_left_out(readme, text):
    assert card(base_readme=readme(text)) == card()


def test_card_of_another_encoding_or_none_is_left_out(tmp_path, readme):
    assert card(base_readme=readme("---\nlicense: mit\n---\né", "latin-1")) == card()
    assert card(base_readme=tmp_path / "absent.md") == card()


def test_windows_line_ends_and_byte_order_mark_are_read(readme):
    path = readme("---\r\nlicense: mit\r\n---\r\n# Base\r\n", "utf-8-sig")
    assert "license: mit" in card(base_readme=path)


@pytest.mark.parametrize("merge_file", [MERGE, "# ```\n" + MERGE], ids=["plain", "backticks"])
def test_the_merge_file_can_be_taken_out_of_the_card(merge_file):
    lines = card(merge_file=merge_file).splitlines()
    begin = next(n for n, line in enumerate(lines) if line.startswith("```"))
    fence = lines[begin].removesuffix("yaml")
    block = lines[begin + 1 : lines.index(fence, begin + 1)]
    assert yaml.safe_load("\n".join(block)) == yaml.safe_load(merge_file)


def test_card_says_how_far_apart_the_models_were():
    text = card()
    assert all(f"- {line}\n" in text for line in REPORT.summary())
    assert "Shoemake" in text


def test_the_same_merge_gives_the_same_card():
    assert card(report=replace(REPORT, seconds=99.0)) == card()


def test_parity_with_mergekit_is_said():
    assert "MergeKit" in card(report=replace(REPORT, parity="mergekit")).split("The merge as")[0]
    assert "MergeKit" not in card().split("The merge as")[0]
