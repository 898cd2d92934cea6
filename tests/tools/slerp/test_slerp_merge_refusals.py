"""Merge files that cannot be merged as they say are refused, in one line that names the place."""

import pytest

from hala_tools.slerp.errors import InputError
from hala_tools.slerp.merge_file import read_merge_file
from tests.tools.slerp.merge_texts import HEAD, MODELS, PLAIN, T, slices

REFUSED = {
    # The file.
    "empty": ("", "the file is empty"),
    "comment alone": ("# merge\n", "the file is empty"),
    "list": ("- a\n", "must be a mapping of keys to values, not ['a']"),
    "text": ("slerp", "must be a mapping of keys to values, not 'slerp'"),
    "syntax": (f"{PLAIN}dtype: [float16", "line 5: not valid YAML: expected ',' or ']'"),
    "tab": ("models:\n\t- model: A", r"line 2: not valid YAML: found character '\t'"),
    "two documents": (f"{PLAIN}---\n{PLAIN}", "line 5: not valid YAML: but found another document"),
    "control character": ("a: \x00", "not valid YAML: unacceptable character #x0000"),
    "object": ("a: !!python/name:os.system x", "line 1: not valid YAML: could not determine a"),
    "no such date": ("a: 2024-99-99", "not valid YAML: month must be in 1..12"),
    "deep": ("[" * 1000, "not a merge file: nested too deep"),
    "UTF-16": (PLAIN.encode("utf-16"), "not UTF-8 at byte 0; save it as UTF-8"),
    "key twice": (f"{PLAIN}base_model: B", "line 5: key 'base_model' stands in line 3 already"),
    "key twice within": (
        f"{MODELS}{HEAD}parameters:\n  t:\n  - value: 1\n    value: 0",
        "line 7: key 'value' stands in line 6 already; remove one of the two",
    ),
    # Keys.
    "misspelled": (f"{PLAIN}d_type: float16", "d_type is not a known key; did you mean dtype?"),
    "unknown": (f"{PLAIN}name: x", "name is not a known key; known here: merge_method, base_model"),
    "odd key": (f"{PLAIN}on: x", "True is not a known key"),
    "key of two lines": (f'{PLAIN}"a\\nb": x', r"'a\nb' is not a known key"),
    "chat_template": (f"{PLAIN}chat_template: auto", "chat_template is not supported; remove it"),
    "no method": (PLAIN.replace("merge_method: slerp", ""), "merge_method is missing; write"),
    "other method": (
        PLAIN.replace("slerp", "ties"),
        "merge_method is 'ties'; hala-slerp does slerp alone",
    ),
    "no base": (PLAIN.replace("base_model: A", ""), "base_model is missing; name the model that t"),
    # Models.
    "no models": (HEAD + T, "has none of models, slices, modules; give exactly one"),
    "empty models": (f"models: []\n{HEAD}{T}", "has none of models, slices, modules"),
    "both forms": (slices("0-4") + MODELS + T, "has more than one of models, slices, modules"),
    "models by name": (
        f"models: [A, B]\n{HEAD}{T}",
        "models[0] must be a mapping of keys to values, not 'A'",
    ),
    "three models": (
        f"models: [{{model: A}}, {{model: B}}, {{model: C}}]\n{HEAD}{T}",
        "models must be base_model 'A' and one other model; it is ['A', 'B', 'C']",
    ),
    "third model as base": (
        f"models: [{{model: B}}, {{model: C}}]\n{HEAD}{T}",
        "models must be base_model 'A' and one other model; it is ['B', 'C']",
    ),
    "same model": (
        f"models: [{{model: A}}, {{model: A}}]\n{HEAD}{T}",
        "models must be base_model 'A' and one other model; it is ['A', 'A']",
    ),
    "base alone": (
        f"models: [{{model: A}}]\n{HEAD}{T}",
        "models must be base_model 'A' and one other",
    ),
    "no model": (f"models: [{{modle: A}}]\n{HEAD}{T}", "models[0].modle is not a known key; did"),
    "model of no name": (f"models: [{{model: null}}]\n{HEAD}{T}", "models[0].model is missing"),
    "number as model": (
        f"models: [{{model: {{model: {{path: 7}}}}}}]\n{HEAD}{T}",
        "models[0].model.model.path must be text, not 7; put a name in quotes",
    ),
    "weight of a model": (
        f"models: [{{model: B, parameters: {{weight: 1}}}}]\n{HEAD}{T}",
        "models[0].parameters stands under a model, where MergeKit ignores",
    ),
    "t of a source": (
        (slices("0-4") + T).replace("[0, 4]", "[0, 4], parameters: {t: 0.5}", 1),
        "slices[0].sources[0].parameters stands under a model, where MergeKit ignores the "
        "parameters of slerp; move t to `parameters` of the file or slice",
    ),
    "lora": (PLAIN.replace("model: B", "model: B+lora"), "models[1].model is 'B+lora'; what follo"),
    "lora as key": (
        PLAIN.replace("model: B", "model: {model: B, lora: L}"),
        "models[1].model.lora is a LoRA; merge it into its model first",
    ),
    "architecture": (
        PLAIN.replace("model: B", "model: {model: B, override_architecture: L}"),
        "models[1].model.override_architecture is not supported",
    ),
    "two revisions": (
        PLAIN.replace("model: B", "model: B@1@2"),
        "models[1].model is 'B@1@2'; write PATH or PATH@REVISION",
    ),
    "no revision": (PLAIN.replace("model: B", "model: B@"), "models[1].model is 'B@'; write PATH"),
    "number as revision": (
        PLAIN.replace("model: B", "model: {model: {path: B, revision: 1.0}}"),
        "models[1].model.model.revision must be text, not 1.0; put",
    ),
    # Slices.
    "three sources": (
        (slices("0-4") + T).replace("}]}", "}, {model: C, layer_range: [0, 4]}]}"),
        "slices[0].sources must be base_model 'A' and one other model; it is ['A', 'B', 'C']",
    ),
    "one source": (
        f"slices: [{{sources: [{{model: B, layer_range: [0, 4]}}]}}]\n{HEAD}{T}",
        "slices[0].sources must be base_model 'A' and one other model; it is ['B']",
    ),
    "other source later": (
        (slices("0-4", "4-8") + T).replace("B, layer_range: [4", "C, layer_range: [4"),
        "slices[1].sources has 'C' where slices[0] has 'B'; give the same two models",
    ),
    "no layers": (
        (slices("0-4") + T).replace(", layer_range: [0, 4]", "", 1),
        "slices[0].sources[0].layer_range is missing; write [first, end]",
    ),
    "layers as text": (
        (slices("0-4") + T).replace("[0, 4]", "0-4", 1),
        "slices[0].sources[0].layer_range must be a list, not '0-4'",
    ),
    "three numbers of layers": (
        (slices("0-4") + T).replace("[0, 4]", "[0, 4, 8]", 1),
        "slices[0].sources[0].layer_range must be two whole numbers, not [0, 4, 8]",
    ),
    "half a layer": (
        (slices("0-4") + T).replace("[0, 4]", "[0, 3.5]", 1),
        "slices[0].sources[0].layer_range must be two whole numbers, not [0, 3.5]",
    ),
    "no layer in a slice": (
        slices("0-4", "4-4") + T,
        "slices[1].sources[0].layer_range is [4, 4], no layer; w",
    ),
    "moved layers": (
        (slices("0-4") + T).replace("[0, 4]}]", "[1, 5]}]"),
        "slices[0].sources[1].layer_range is [1, 5] and the other source's [0, 4]; make them",
    ),
    "dropped first layers": (slices("2-4") + T, "slices[0].sources begins at layer 2, not at 0"),
    "dropped layers": (slices("0-4", "6-8") + T, "slices[1].sources begins at layer 6, not at 4"),
    "repeated layers": (slices("0-4", "2-8") + T, "slices[1].sources begins at layer 2, not at 4"),
    "other base of a slice": (
        slices("0-4 , base_model: B") + T,
        "slices[0].base_model is not 'A', the file's base_model; remove it",
    ),
    "residual_weight": (
        slices("0-4 , residual_weight: 0.5") + T,
        "slices[0].residual_weight is not supported; remove it",
    ),
    # Modules.
    "other module": (
        f"modules: {{vision: {{models: [{{model: B}}]}}}}\n{HEAD}{T}",
        "modules.vision is not supported; remove it",
    ),
    "empty module": (
        f"modules: {{default: {{parameters: {{}}}}}}\n{HEAD}{T}",
        "modules.default has none of models, slices; give exactly one",
    ),
    "module in a module": (
        f"modules: {{default: {{modules: {{}}}}}}\n{HEAD}{T}",
        "modules.default.modules is not a known key; did you mean models?",
    ),
    # t.
    "no t": (MODELS + HEAD, "has no parameters.t; give a number, e.g. 0.5"),
    "t of one slice alone": (
        slices("0-4 , parameters: {t: 0.5}", "4-8"),
        "slices[1] has no parameters.t; give a number",
    ),
    "empty t": (f"{MODELS}{HEAD}parameters: {{t: []}}", "has no parameters.t; give a number"),
    "t of no value": (
        f"{MODELS}{HEAD}parameters: {{t: }}",
        "parameters.t must be a finite number, not nothing",
    ),
    "parameters of no t": (f"{MODELS}{HEAD}parameters: 0.5", "parameters must be a mapping of ke"),
    "other parameter": (
        PLAIN.replace("t: 0.5", "t: 0.5, embed_slerp: true"),
        "parameters.embed_slerp is not a known key; known here: t",
    ),
    "t as text": (PLAIN.replace("0.5", "half"), "parameters.t must be a finite number, not 'half'"),
    "t as boolean": (PLAIN.replace("0.5", "yes"), "parameters.t must be a finite number, not True"),
    "t not a number": (PLAIN.replace("0.5", ".nan"), "parameters.t must be a finite number, not n"),
    "t without end": (
        PLAIN.replace("0.5", "[0, .inf]"),
        "parameters.t[1] must be a finite number, not inf",
    ),
    "t beyond floats": (PLAIN.replace("0.5", "1" + "0" * 400), "parameters.t must be a finite num"),
    "gradient in a gradient": (
        PLAIN.replace("0.5", "[0, [1]]"),
        "parameters.t[1] must be a finite number, not [1]",
    ),
    "number among rules": (
        PLAIN.replace("0.5", "[{filter: mlp, value: 0}, 0.5]"),
        "parameters.t[1] must be a mapping of keys to values, not 0.5",
    ),
    "rule in a rule": (
        PLAIN.replace("0.5", "[{value: [{value: 1}]}]"),
        "parameters.t[0].value[0] must be a finite number",
    ),
    "rule of no value": (
        PLAIN.replace("0.5", "[{filter: mlp}]"),
        "parameters.t[0].value is missing; give a number or a list",
    ),
    "rule of an empty list": (
        PLAIN.replace("0.5", "[{filter: mlp, value: []}]"),
        "parameters.t[0].value is an empty list; give a number",
    ),
    "misspelled rule": (
        PLAIN.replace("0.5", "[{filtr: mlp, value: 0}]"),
        "parameters.t[0].filtr is not a known key; did you mean filter?",
    ),
    "number as filter": (
        PLAIN.replace("0.5", "[{filter: 7, value: 0}]"),
        "parameters.t[0].filter must be text, not 7; put it in quotes",
    ),
    # The result.
    "float64": (f"{PLAIN}dtype: float64", "dtype is 'float64'; choose from float32, float16, bfl"),
    "int64": (f"{PLAIN}out_dtype: torch.int64", "out_dtype is 'torch.int64'; choose from float32"),
    "union": (f"{PLAIN}tokenizer_source: union", "tokenizer_source is 'union'; give base, 'A' or"),
    "other tokenizer": (f"{PLAIN}tokenizer_source: C", "tokenizer_source is 'C'; give base, 'A' o"),
    "tokenizer of no source": (f"{PLAIN}tokenizer: {{}}", "tokenizer.source is missing; give base"),
    "tokenizer's union": (
        f"{PLAIN}tokenizer: {{source: union}}",
        "tokenizer.source is 'union'; giv",
    ),
    "two tokenizers": (
        f"{PLAIN}tokenizer_source: base\ntokenizer: {{source: base}}",
        "tokenizer and tokenizer_source are both there; remove one",
    ),
    "tokens": (
        f"{PLAIN}tokenizer: {{source: base, tokens: {{<s>: {{source: A}}}}}}",
        "tokenizer.tokens is not supported; remove it",
    ),
    "padded vocabulary": (
        f"{PLAIN}tokenizer: {{source: base, pad_to_multiple_of: 64}}",
        "tokenizer.pad_to_multiple_of is not supported; remove it",
    ),
}


@pytest.mark.parametrize(("text", "message"), REFUSED.values(), ids=REFUSED)
def test_refused_in_one_line_with_the_place(tmp_path, text, message):
    path = tmp_path / "merge.yml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(InputError) as error:
        read_merge_file(path)
    assert str(error.value).startswith(f"{path}: {message}")
    assert "\n" not in str(error.value)


def test_file_that_cannot_be_read_is_named(tmp_path):
    for path, why in (tmp_path / "none.yml", "No such file"), (tmp_path, "Is a directory"):
        with pytest.raises(InputError) as error:
            read_merge_file(path)
        assert str(error.value).startswith(f"{path}: cannot read the merge file ({why}")
