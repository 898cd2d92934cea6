"""Benchmarks. They run from a checkout, installed or not: a lent GPU machine installs nothing."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

if find_spec("hala_kernels") is None:
    _root = Path(__file__).resolve().parent.parent
    _paths = [str(_root / name) for name in ("", "kernels", "trainer", "tools")]
    sys.path[:0] = _paths
    os.environ["PYTHONPATH"] = os.pathsep.join([*_paths, os.environ.get("PYTHONPATH", "")])
