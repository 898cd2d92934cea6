"""Compile what the cases launch and judge it."""

from __future__ import annotations

import re
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context

from hala_kernels import tuning
from hala_kernels.backend import forced, launching_with
from hala_kernels.compile.cases import Case, operations
from hala_kernels.compile.chips import CHIPS, TENSOR_MEMORY_COLUMNS, Chip, pretending
from hala_kernels.compile.resources import Resources, measure


@dataclass(frozen=True)
class Job:
    """One launch table on one chip, to be compiled in a process of its own."""

    operation: str
    table: str
    capability: int


@dataclass(frozen=True)
class Built:
    """One launch, compiled."""

    operation: str
    table: str
    device: str
    capability: int
    kernel: str
    case: str
    config: tuning.Config
    resources: Resources
    faults: tuple[str, ...]


@dataclass
class Report:
    built: list[Built] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def add(self, other: Report) -> None:
        self.built += other.built
        self.faults += other.faults


def jobs(only: set[str], capabilities: list[int]) -> list[Job]:
    """Every table of the operations named in `only`, or of all of them when it is empty.

    Raises LookupError for a name that is neither an operation nor a table.
    """
    modules = operations()
    known = set(modules).union(*(module.TUNED for module in modules.values()))
    if unknown := only - known:
        raise LookupError(f"no operation is called {' or '.join(sorted(unknown))}")
    return [
        Job(name, table, capability)
        for capability in capabilities
        for name, module in modules.items()
        for table in module.TUNED
        if not only or name in only or table in only
    ]


def orphans() -> list[str]:
    """A fault for each launch table that no operation's cases name."""
    named = {table for module in operations().values() for table in module.TUNED}
    tables = sorted(path.name for path in tuning.CONFIGS.iterdir() if path.is_dir())
    return [f"configs/{table}: no case reaches it" for table in tables if table not in named]


def run(todo: list[Job], processes: int) -> Report:
    report = Report()
    if processes == 1:
        for job in todo:
            report.add(compile_job(job))
        return report
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        parts = [pool.submit(compile_job, job) for job in todo]
        for job, part in zip(todo, parts, strict=True):
            try:
                report.add(part.result())
            except BrokenExecutor:
                where = f"sm_{job.capability} {job.table}"
                report.faults.append(f"{where}: a compiling process died (out of memory?)")
    return report


def compile_job(job: Job) -> Report:
    """Compile one table's entries, each through every case at a shape that the entry takes."""
    chip, report = CHIPS[job.capability], Report()
    module = operations()[job.operation]
    try:
        tables = tuning.tables_of_capability(job.table, job.capability)
    except (LookupError, ValueError) as error:
        return Report(faults=[f"sm_{job.capability} {job.table}: {error}"])
    for table in tables:
        where = f"sm_{job.capability} {job.table}/{table.device}"
        with pretending(chip), forced("triton"), tuning.forcing(job.table, table):
            for entry in table.entries:
                try:
                    found = list(module.cases(job.table, **{**entry.up_to, **entry.where}))
                except Exception as error:
                    report.faults.append(f"{where}: {type(error).__name__}: {error}")
                    continue
                if not found:
                    report.faults.append(f"{where}: no case reaches {entry.config}")
                for case in found:
                    if job.capability in case.capabilities:
                        report.add(_compile_case(job, table, entry, case, chip))
    return report


def _compile_case(
    job: Job, table: tuning.Table, entry: tuning.Entry, case: Case, chip: Chip
) -> Report:
    where = f"sm_{chip.capability} {job.table}/{table.device} [{case.label}]"
    launched: list[tuple[str, object, dict]] = []

    def compile_only(kernel, grid, *args, **options) -> None:
        compiled = kernel.run(*args, grid=grid, warmup=True, **options)
        launched.append((kernel.fn.__name__, compiled, options))

    try:
        with launching_with(compile_only):
            case.call()
    except Exception as error:
        last = (str(error).strip() or type(error).__name__).splitlines()[-1]
        return Report(faults=[f"{where}: does not compile: {type(error).__name__}: {last}"])
    mine = [options for _, _, options in launched if entry.config.items() <= options.items()]
    report = Report()
    if not mine:
        report.faults.append(f"{where}: no launch took {entry.config}")
    ptx = "\n".join(compiled.asm["ptx"] for _, compiled, _ in launched)
    if (demand := case.demands.get(chip.capability)) and not re.search(demand, ptx):
        report.faults.append(f"{where}: its PTX does not contain {demand}")
    used = measure([compiled for _, compiled, _ in launched])
    for (name, _, options), resources in zip(launched, used, strict=True):
        faults = tuple(f"{where} {name}: {fault}" for fault in _judge(resources, chip))
        report.faults += faults
        config = {k: v for k, v in options.items() if k in entry.config}
        report.built.append(
            Built(
                job.operation,
                job.table,
                table.device,
                chip.capability,
                name,
                case.label,
                config,
                resources,
                faults,
            )
        )
    return report


def _judge(resources: Resources, chip: Chip) -> list[str]:
    faults = []
    if resources.spilled:
        faults.append(f"spills {resources.spilled} bytes a thread")
    if resources.shared > chip.shared_limit:
        faults.append(f"asks for {resources.shared} B of shared memory, over {chip.shared_limit}")
    if resources.tensor_memory > TENSOR_MEMORY_COLUMNS:
        faults.append(f"asks for {resources.tensor_memory} columns of tensor memory, over 512")
    return faults
