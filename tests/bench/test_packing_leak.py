"""The figure of the README: who packs without leaking, on a few documents."""

import json

from bench import packing_leak

PAIRS = [("The book is new.", "الكتاب جديد."), ("The teacher reads.", "المعلم يقرأ.")] * 3


def test_ours_does_not_leak_where_stock_packing_does(tmp_path):
    docs = packing_leak.documents(PAIRS, 6)
    lfm2 = packing_leak.leaks("lfm2", packing_leak.SHIPPED, docs)
    gemma2 = packing_leak.leaks("gemma2", packing_leak.random_gemma2(tmp_path / "gemma2"), docs)
    gap = {(row.model, row.packing): row.gradient for row in lfm2 + gemma2 if not row.refused}
    assert gap["lfm2", "ours"] < 1e-5 and gap["gemma2", "ours"] < 1e-5
    assert gap["gemma2", "stock"] < 1e-5  # no convolution
    assert gap["lfm2", "stock"] > 1e-3
    assert gap["lfm2", "one text"] > gap["lfm2", "stock"]
    assert gap["gemma2", "stock + mask"] > 1e-2


def test_figures_of_another_version_of_transformers_are_kept(tmp_path):
    file = tmp_path / "leak.json"
    file.write_text('{"runs": {"1.0": {"results": []}}}')
    packing_leak.save(file, [packing_leak.Leak("m", "stock", 0.5, 0.25, 0.3, "w")], {})
    runs = json.loads(file.read_text())["runs"]
    version = packing_leak.machine.versions()["transformers"]
    assert runs.keys() == {"1.0", version}
    assert runs[version]["results"][0]["gradient"] == 0.25
