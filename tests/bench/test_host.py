"""The benchmark of the host's part of a step runs its job to the end."""

import json
from pathlib import Path

from bench import host


def test_every_part_of_a_step_is_timed(tmp_path: Path) -> None:
    target = tmp_path / "host.json"
    assert host.main(["--batches", "4,9", "--json", str(target)]) == 0
    result = json.loads(target.read_text())
    assert [row["batch"] for row in result["batches"]] == [4, 9]
    for row in result["batches"]:
        assert row["steps"] > 100  # the longest request alone has as many
        assert set(row["parts_us"]) == set(host.PARTS)
        assert all(us > 0 for us in row["parts_us"].values())
    assert "commit" in result
