"""How long a device waits: the time between kernels, from a trace."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch.autograd.profiler_util import DeviceType
from torch.profiler import ProfilerActivity, profile

Interval = tuple[int, int]


def idle_share(work: Callable[[], object], device: str) -> dict[str, float]:
    """Of the second half of `work`, by the clock of its kernels: the share in which none runs, and
    the longest gap in seconds. On the CPU operations stand for kernels. Raises RuntimeError when
    nothing was traced."""
    is_cuda = device == "cuda"
    activities = [ProfilerActivity.CUDA] if is_cuda else [ProfilerActivity.CPU]
    with profile(activities=activities, acc_events=True) as trace:
        work()
    kind = DeviceType.CUDA if is_cuda else DeviceType.CPU
    intervals = [
        (event.start_ns(), event.start_ns() + event.duration_ns())
        for event in trace.profiler.kineto_results.events()
        if event.device_type() == kind and event.duration_ns() > 0
    ]
    if not intervals:
        raise RuntimeError("the profiler recorded no kernels")
    return gaps(intervals)


def gaps(intervals: Iterable[Interval]) -> dict[str, float]:
    """Of nanosecond intervals, over the later half of the time that they span."""
    ordered = sorted(intervals)
    begin, end = ordered[0][0], max(stop for _, stop in ordered)
    middle = (begin + end) // 2
    idle = longest = 0
    reached = middle
    for start, stop in ordered:
        if stop <= reached:
            continue
        if start > reached:
            idle += start - reached
            longest = max(longest, start - reached)
        reached = stop
    wall = end - middle
    return {
        "idle_share": idle / wall if wall else 0.0,
        "longest_gap_s": longest / 1e9,
        "wall_s": wall / 1e9,
        "kernels": float(len(ordered)),
    }
