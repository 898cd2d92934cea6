"""How many threads a step takes."""

from __future__ import annotations

import os

import pytest
import torch

from hala_engine import device


@pytest.mark.parametrize(
    "files, granted",
    [
        ({"cpu.max": "150000 100000\n"}, 1),
        ({"cpu.max": "600000 100000\n"}, 6),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "max 100000\n"}, 16),
        ({"cpu.max": "6400000 100000\n"}, 16),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 16),
        ({}, 16),
    ],
)
def test_cores_are_those_of_the_control_groups_quota(files, granted, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)))
    (tmp_path / "cpu").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert device._granted_cores(tmp_path) == granted


@pytest.mark.parametrize("said", [None, "7"])
def test_threads_are_limited_unless_the_user_says(said, monkeypatch):
    before = torch.get_num_threads()
    monkeypatch.setattr(device, "_granted_cores", lambda: 1)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if said:
        monkeypatch.setenv("OMP_NUM_THREADS", said)
    torch.set_num_threads(2)
    try:
        device.use_granted_cores()
        assert torch.get_num_threads() == (2 if said else 1)
    finally:
        torch.set_num_threads(before)
