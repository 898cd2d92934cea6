"""Kernels beside their peers and their floors, with pytest-benchmark: one file an operation.

python -m pytest bench/kernels                  # on a GPU; on a CPU a smoke run of tiny shapes
python -m pytest bench/kernels/bench_norm.py
"""
