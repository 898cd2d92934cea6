"""A traced piece of training, by kind of kernel, and how long the device waits."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

from torch.autograd.profiler_util import DeviceType
from torch.profiler import ProfilerActivity, profile

from bench.idle import gaps

KINDS = {
    "attention": ("flex_attention", "triton_tem", "flash", "scaled_dot_product"),
    "loss": ("cross_entropy", "row_losses"),
    "convolution": ("short_conv",),
    "optimizer": ("adam",),
    "communication": ("nccl",),
    "matrix products": ("gemm", "nvjet", "cutlass", "xmma", "cublas", "::mm", "::addmm"),
    "copies": ("memcpy", "memset"),
}
"""Kind -> what the names of its kernels hold; the first kind that fits counts."""
REST = "norms, activations, casts, sums"


def kernel_split(work: Callable[[], object], device: str) -> dict[str, object]:
    """Seconds of each kind's kernels in `work`, and the share of its time in which none ran. On the
    CPU operations stand for kernels, and those within others count twice."""
    is_cuda = device == "cuda"
    activity = ProfilerActivity.CUDA if is_cuda else ProfilerActivity.CPU
    with profile(activities=[activity], acc_events=True) as trace:
        work()
    wanted = DeviceType.CUDA if is_cuda else DeviceType.CPU
    seconds: dict[str, float] = defaultdict(float)
    intervals = []
    for event in trace.profiler.kineto_results.events():
        if event.device_type() == wanted and event.duration_ns() > 0:
            seconds[kind_of(event.name())] += event.duration_ns() / 1e9
            intervals.append((event.start_ns(), event.start_ns() + event.duration_ns()))
    if not intervals:
        raise RuntimeError("the profiler recorded no kernels")
    longest_first = sorted(seconds.items(), key=lambda entry: -entry[1])
    return {"seconds": dict(longest_first), "idle_share": gaps(intervals)["idle_share"]}


def kind_of(name: str) -> str:
    lower = name.lower()
    return next((kind for kind, parts in KINDS.items() if any(p in lower for p in parts)), REST)
