"""Merge files: what is read from those found in the wild, and the way back to a file."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hala_tools.slerp.factor import Rule, Slice
from hala_tools.slerp.merge_file import read_merge_file, to_merge_file
from hala_tools.slerp.request import FLOATS, Request
from tests.tools.slerp.merge_texts import HEAD, MODELS, PLAIN, T, slices

# The example of MergeKit's own pages, which hundreds of model cards repeat.
CLASSIC = """
slices:
  - sources:
      - model: psmathur/orca_mini_v3_13b
        layer_range: [0, 40]
      - model: garage-bAInd/Platypus2-13B
        layer_range: [0, 40]
# or, the equivalent models: syntax:
# models:
#   - model: psmathur/orca_mini_v3_13b
#   - model: garage-bAInd/Platypus2-13B
merge_method: slerp
base_model: psmathur/orca_mini_v3_13b
parameters:
  t:
    - filter: self_attn
      value: [0, 0.5, 0.3, 0.7, 1]
    - filter: mlp
      value: [1, 0.5, 0.7, 0.3, 0]
    - value: 0.5 # fallback for rest of tensors
dtype: float16
"""
CLASSIC_RULES = (
    Rule((0.0, 0.5, 0.3, 0.7, 1.0), "self_attn"),
    Rule((1.0, 0.5, 0.7, 0.3, 0.0), "mlp"),
    Rule((0.5,)),
)
HALF = (Rule((0.5,)),)


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    """Reads the text of a merge file."""
    path = tmp_path_factory.mktemp("merge") / "merge.yml"

    def read(text: str | bytes) -> Request:
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return read_merge_file(path)

    return read


def test_classic_file_with_slices_and_filters(read):
    assert read(CLASSIC) == Request(
        "psmathur/orca_mini_v3_13b",
        "garage-bAInd/Platypus2-13B",
        (Slice(CLASSIC_RULES, 0, 40),),
        dtype="float16",
        rounded_to="float16",
    )


def test_models_are_all_layers(read):
    assert read(PLAIN) == Request("A", "B", (Slice(HALF),))


@pytest.mark.parametrize(
    "models",
    ["[{model: A}, {model: B}]", "[{model: B}, {model: A}]", "[{model: B}]"],
)
def test_base_model_is_the_side_of_zero_wherever_it_stands(read, models):
    request = read(f"models: {models}\n{HEAD}{T}")
    assert (request.base, request.tuned) == ("A", "B")


@pytest.mark.parametrize(
    ("written", "model"),
    [
        ("org/name", "org/name"),
        ("org/name@v1", "org/name@v1"),
        ("../out/final", "../out/final"),
        ("~/models/x", "~/models/x"),
        ("{model: {path: org/name}}", "org/name"),
        ("{model: {path: org/name, revision: v1}}", "org/name@v1"),
        ("{model: org/name@v1, lora: null}", "org/name@v1"),
        ("{model: {path: runs/a+b}}", "runs/a+b"),
        ("{model: runs/a+b}", "runs/a+b"),
    ],
)
def test_model_is_text_or_spelled_out_and_stays_as_written(read, written, model):
    text = f"models: [{{model: {written}}}, {{model: B}}]\nmerge_method: slerp\n{T}"
    request = read(f"{text}base_model: B")
    assert (request.base, request.tuned) == ("B", model)
    request = read(f"{text}base_model: {written}")
    assert (request.base, request.tuned) == (model, "B")


@pytest.mark.parametrize(
    ("t", "rules"),
    [
        ("0.3", [Rule((0.3,))]),
        ("1", [Rule((1.0,))]),
        ("-0.25", [Rule((-0.25,))]),
        ("1.5", [Rule((1.5,))]),
        ("1e-3", [Rule((0.001,))]),  # text to YAML
        ("'0.5'", [Rule((0.5,))]),
        ("[0, 1e-3, 1]", [Rule((0.0, 0.001, 1.0))]),
        ("{value: 0.5}", [Rule((0.5,))]),
        ("{filter: mlp, value: [0, 1]}", [Rule((0.0, 1.0), "mlp")]),
        ("[{filter: '*', value: 0.5}]", [Rule((0.5,))]),
        ("[{filter: null, value: 0.5}]", [Rule((0.5,))]),
        ("[{filter: '', value: 0.5}]", [Rule((0.5,))]),
        (
            "[{filter: a, value: 0}, {value: 1}, {filter: b, value: 2}]",
            [Rule((0.0,), "a"), Rule((1.0,)), Rule((2.0,), "b")],
        ),
    ],
)
def test_t_is_a_number_a_gradient_or_rules(read, t, rules):
    assert read(f"{MODELS}{HEAD}parameters: {{t: {t}}}").slices == (Slice(tuple(rules)),)


def test_t_of_a_slice_precedes_the_modules_and_the_files(read):
    own = ", parameters: {t: [{filter: mlp, value: 0.1}]}"
    text = slices(f"0-4 {own}", "4-6").replace(HEAD, "")
    text = "modules:\n default:\n  parameters: {t: [{filter: attn, value: 0.2}]}\n" + "\n".join(
        f"  {line}" for line in text.splitlines()
    )
    first, second = read(f"{text}\n{HEAD}{T}").slices
    mlp, attn, rest = Rule((0.1,), "mlp"), Rule((0.2,), "attn"), Rule((0.5,))
    assert first == Slice((mlp, attn, rest), 0, 4)
    assert second == Slice((attn, rest), 4, 6)


def test_empty_t_leaves_it_to_the_next_scope(read):
    assert read(slices("0-4 , parameters: {t: []}") + T).slices == (Slice(HALF, 0, 4),)


def test_module_default_is_the_same_as_no_module(read):
    module = "modules: {default: {models: [{model: A}, {model: B}]}}\n"
    assert read(module + HEAD + T) == read(PLAIN)
    module = "modules: {default: {models: [{model: A}, {model: B}], parameters: {t: 0.5}}}\n"
    assert read(module + HEAD) == read(PLAIN)


def test_slice_may_repeat_the_base_model(read):
    assert read(slices("0-4 , base_model: A") + T) == read(slices("0-4") + T)


@pytest.mark.parametrize(
    ("keys", "dtype", "rounded_to"),
    [
        ("", None, None),
        ("dtype: bfloat16", "bfloat16", "bfloat16"),
        ("dtype: torch.float16", "float16", "float16"),
        ("out_dtype: bfloat16", "bfloat16", None),
        ("dtype: float32\nout_dtype: torch.bfloat16", "bfloat16", "float32"),
        ("dtype: null", None, None),
    ],
)
def test_result_has_out_dtype_or_else_dtype(read, keys, dtype, rounded_to):
    request = read(PLAIN + keys)
    assert (request.dtype, request.rounded_to) == (dtype, rounded_to)


@pytest.mark.parametrize(
    ("keys", "side"),
    [
        ("tokenizer_source: base", "base"),
        ("tokenizer_source: A", "base"),
        ("tokenizer_source: B", "tuned"),
        ("tokenizer_source: {model: {path: B}}", "tuned"),
        ("tokenizer: {source: base}", "base"),
        ("tokenizer: {source: B, tokens: null}", "tuned"),
        ("tokenizer_source: null", None),
    ],
)
def test_tokenizer_is_that_of_a_side(read, keys, side):
    assert read(PLAIN + keys).tokenizer_source == side


def test_anchors_and_merged_keys_are_yaml_as_well(read):
    text = f"{MODELS}{HEAD}parameters: {{t: [&r {{filter: a, value: 0}}, {{<<: *r, filter: b}}]}}"
    assert read(text).slices == (Slice((Rule((0.0,), "a"), Rule((0.0,), "b"))),)


NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
TEXT = st.text(
    st.sampled_from("ab:#'\"\\ -?*&!|>%@`,[]{}\n\t1.0~é\u2028") | st.characters(), max_size=9
)
FILTERS = st.none() | st.sampled_from(["self_attn", "mlp", "null", "1", "yes"]) | TEXT
RULES = st.builds(
    Rule,
    st.lists(NUMBERS, min_size=1, max_size=9).map(tuple),
    FILTERS.filter(lambda name: name not in ("", "*")),
)
SEVERAL = st.lists(RULES, min_size=1, max_size=4).map(tuple)
PATHS = st.sampled_from(
    ["org/name", "org/name@v1.0", "name@refs/pr/1", "/data/a@b", "/data/a+b", "a+b@c", "x@y@z", "7",
     "base", "union", "null", "../out dir/é", "C: d"]
)  # fmt: skip


@st.composite
def requests(draw):
    base, tuned = draw(st.lists(PATHS, min_size=2, max_size=2, unique=True))
    if draw(st.booleans()):
        pieces = (Slice(draw(SEVERAL)),)
    else:
        ends = sorted(draw(st.sets(st.integers(1, 64), min_size=1, max_size=4)))
        pieces = tuple(
            Slice(draw(SEVERAL), start, stop) for start, stop in zip([0, *ends], ends, strict=False)
        )
    rounded_to = draw(st.sampled_from([None, *FLOATS]))
    dtype = draw(st.sampled_from([None, *FLOATS] if rounded_to is None else [*FLOATS]))
    side = draw(st.sampled_from([None, "base", "tuned"]))
    return Request(base, tuned, pieces, dtype, rounded_to, side)


@settings(deadline=None)
@given(requests())
def test_written_file_is_read_as_the_same_request(read, wanted):
    assert read(to_merge_file(wanted)) == wanted


def test_written_file_looks_as_one_would_write_it(read):
    assert (
        to_merge_file(read(CLASSIC))
        == """\
slices:
- sources:
  - model: psmathur/orca_mini_v3_13b
    layer_range: [0, 40]
  - model: garage-bAInd/Platypus2-13B
    layer_range: [0, 40]
merge_method: slerp
base_model: psmathur/orca_mini_v3_13b
parameters:
  t:
  - filter: self_attn
    value: [0.0, 0.5, 0.3, 0.7, 1.0]
  - filter: mlp
    value: [1.0, 0.5, 0.7, 0.3, 0.0]
  - value: 0.5
dtype: float16
"""
    )
    request = Request("m/base", "runs/tuned", (Slice(HALF),), "bfloat16", "float32", "tuned")
    assert (
        to_merge_file(request)
        == """\
models:
- model: m/base
- model: runs/tuned
merge_method: slerp
base_model: m/base
parameters:
  t: 0.5
dtype: float32
out_dtype: bfloat16
tokenizer_source: runs/tuned
"""
    )
