"""Every test runs offline, and on one thread: the models are too small to share out, and threads
that wait for each other make the time of a run depend on what else the machine does."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
