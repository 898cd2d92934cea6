"""With the features in its card, `datasets` loads JSON lines whose types it cannot guess."""

import json

import pyarrow as pa
from datasets import Features, load_dataset
from job_plans import plan_of

from hala_engine.rows.features import json_features

ROWS = [
    {"text": "a", "late": None, "flags": {"list": []}, "n": 1, "mixed": 1, "o": {"k": None}},
    {"text": "b", "late": "x", "flags": {"list": ["f"]}, "n": 1.5, "mixed": "s", "o": {"k": [[1]]}},
    {"text": "c", "late": None, "flags": None, "n": None, "mixed": {"a": [1, "b"]}, "new": True},
]


def test_columns_of_nulls_and_of_mixed_types_are_loaded(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    for number, row in enumerate(ROWS):
        (folder / f"{number}.jsonl").write_text(json.dumps(row) + "\n")
    features = json_features(plan_of(folder).schema)
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files: '*.jsonl'\n"
        f"dataset_info: {json.dumps({'features': features})}\n---\n"
    )
    loaded = load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))
    columns = dict.fromkeys(name for row in ROWS for name in row)
    assert loaded.column_names == list(columns)
    for row, loaded_row in zip(ROWS, loaded, strict=True):
        assert loaded_row == {name: row.get(name) for name in columns}


def test_what_has_a_form_in_json_keeps_its_type_and_the_rest_is_text():
    text, number = pa.string(), pa.int16()
    schema = pa.schema(
        [
            ("a", text),
            ("b", pa.list_(number)),
            ("c", pa.list_(pa.struct([("x", pa.list_(pa.float64())), ("y", pa.bool_())]))),
            ("d", pa.large_list(pa.list_(pa.list_(pa.float32())))),
            ("e", pa.struct([("z", pa.null())])),
            ("f", pa.dictionary(pa.int8(), text)),
            ("g", pa.duration("s")),
        ]
        + [(f"text {kind}", kind) for kind in (pa.timestamp("ns"), pa.date32(), pa.binary())]
        + [("h", pa.decimal128(5, 2)), ("i", pa.map_(text, number))]
    )
    features = Features._from_yaml_list(json_features(schema))
    assert list(features) == schema.names
    plain = {name: str(feature) for name, feature in features.items()}
    assert plain == {
        "a": "Value('string')",
        "b": "List(Value('int16'))",
        "c": "List({'x': List(Value('float64')), 'y': Value('bool')})",
        "d": "List(List(List(Value('float32'))))",
        "e": "{'z': Value('null')}",
        "f": "Value('string')",
        "g": "Value('float64')",
        "text timestamp[ns]": "Value('string')",
        "text date32[day]": "Value('string')",
        "text binary": "Value('string')",
        "h": "Value('string')",
        "i": "Json(decode=True)",
    }
