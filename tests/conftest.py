"""Every test runs offline, and on one thread: the models are too small to share out, and threads
that wait for each other make the time of a run depend on what else the machine does.

Where there is no GPU, Triton kernels are interpreted. Triton reads that when it is imported.
"""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
