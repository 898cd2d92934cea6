"""Any job over the rows of a dataset: scan, load, then shard after shard, each finished for good
before the next begins.

Why a rerun after `kill -9` ends with the same bytes. A shard and its record appear whole or not
at all, so what is finished is never touched again. Of the shard in work, and of all before it, the
model's answers are kept in whole blocks (blocks.py says why), and what lacks an answer forms the
same blocks again. The same bytes are promised for the same command on the same machine with the
same package versions.
"""

import gc
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from hala_engine.errors import InputError, JobError
from hala_engine.jobs.answers import Answers, discard
from hala_engine.jobs.config import EngineOptions, JobConfig
from hala_engine.jobs.failures import FailedRows
from hala_engine.jobs.manifest import ShardFile, ShardRecord, Totals, make_manifest
from hala_engine.jobs.plan import Plan, differences, load_plan
from hala_engine.jobs.progress import Progress, make_progress
from hala_engine.jobs.results import RowResult
from hala_engine.jobs.scan import default_format, make_plan
from hala_engine.jobs.storage import OutputDirectory, atomic_file, write_json
from hala_engine.jobs.writing import ShardWriter, json_line
from hala_engine.rows.inputs import InputFile, RowReader, find_files
from hala_engine.rows.records import Records

if TYPE_CHECKING:
    from hala_engine.engine import Engine


class Worker(Protocol):
    """What a kind of job does with rows. One serves all shards of a job."""

    def work(
        self, records: Records, answers: Answers, progress: Progress, failed: FailedRows
    ) -> list[RowResult]:
        """One result a row; those that fail are added to `failed`, whose JobError passes."""
        ...


@dataclass(frozen=True)
class Kind:
    """A kind of job. make_worker: (engine, config, context in tokens). make_card: (config, plan,
    the model's name, what was made)."""

    make_worker: Callable[["Engine", Any, int], Worker]
    make_card: Callable[[Any, Plan, str, Totals], str]


@dataclass(frozen=True)
class JobResult:
    """`job`: all of the output; `run`: what this run added to it.

    `tokens_read` and `tokens_written` are the engine's in this run, repeated texts once.
    """

    output: Path
    job: Totals
    run: Totals
    already_complete: bool
    tokens_read: int = 0
    tokens_written: int = 0


class _Described(Protocol):
    """What loading an engine needs of a configuration."""

    model: str
    revision: str | None
    engine: EngineOptions


def load_engine(config: _Described) -> "Engine":
    """The engine of the job's model. Torch is imported here, when all else has been checked."""
    from hala_engine.engine import Engine, EngineConfig

    engine_config = EngineConfig(**config.engine.given())
    return Engine(config.model, revision=config.revision, config=engine_config)


def run_job(config: JobConfig, kind: Kind, *, quiet: bool = True) -> JobResult:
    """Do the job, or go on where an earlier run of the same job stopped.

    Raises InputError before any work is done, JobError when work has begun and cannot go on.
    """
    config.validate()
    output = OutputDirectory(Path(config.output), config.folders)
    output.check(config.overwrite)
    files = find_files(config.inputs)
    config = replace(config, format=config.format or default_format(files))
    _refuse_input_in_output(files, output)
    with output.locked():
        saved = None if config.overwrite else load_plan(output.plan)
        plan = _plan(config, files, saved)
        records = {} if saved is None else _finished_shards(plan, output)
        is_complete = output.manifest.exists() and len(records) == len(plan.own_shards())
        if is_complete and output.made_with(config.model, config.revision):
            discard(output.answers)
            return _nothing_to_do(output, records)
        engine = load_engine(config)
        plan = _plan_with_model(plan, engine)
        if is_complete:
            return _nothing_to_do(output, records)
        worker = kind.make_worker(engine, config, plan.context)
        if config.overwrite:
            output.clear()
        try:
            write_json(output.plan, plan.to_json())
            for folder in output.folders:
                folder.mkdir(exist_ok=True)
            run = _Run(config, plan, output, worker)
            with _loaded_things_at_rest():
                new = run.make_shards(records, quiet)
            run.finish(kind, engine.model_path, [records[shard] for shard in plan.own_shards()])
        except OSError as error:
            raise JobError(
                f"{error.filename or output.path}: {error.strerror or error}; finished shards are "
                "kept: mend the cause and run the same command again"
            ) from error
    return JobResult(
        output=output.path,
        job=Totals.of(records.values()),
        run=Totals.of(new),
        already_complete=False,
        tokens_read=engine.stats.prompt_tokens,
        tokens_written=engine.stats.output_tokens,
    )


def _nothing_to_do(output: OutputDirectory, records: dict[int, ShardRecord]) -> JobResult:
    return JobResult(output.path, Totals.of(records.values()), Totals.of([]), True)


@contextmanager
def _loaded_things_at_rest() -> Iterator[None]:
    """Looking for garbage among what is loaded, over and over, costs 10 us a row."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _plan(config: JobConfig, files: list[InputFile], saved: Plan | None) -> Plan:
    """The saved plan when the job and its files are the same, else a new one; refuses a change."""
    if saved is None:
        return make_plan(config, files)
    same_files = [f.same_on_disk for f in files] == [f.same_on_disk for f in saved.files]
    identity = json.loads(json.dumps(config.identity()))
    if same_files and identity == saved.identity:
        return saved
    new = make_plan(config, files)
    _refuse_difference(differences(saved, new))
    return new.with_model(saved.model_fingerprint, saved.context)


def _plan_with_model(plan: Plan, engine: "Engine") -> Plan:
    if plan.model_fingerprint is None:
        return plan.with_model(engine.fingerprint, engine.max_model_len)
    if engine.fingerprint != plan.model_fingerprint:
        old, new = plan.model_fingerprint[:12], engine.fingerprint[:12]
        _refuse_difference([f"model fingerprint: {old} -> {new}"])
    if engine.max_model_len < plan.context:
        raise InputError(
            f"the job began with a context of {plan.context} tokens, memory now holds "
            f"{engine.max_model_len}; free memory, or begin anew with --overwrite"
        )
    return plan


def _refuse_difference(found: list[str]) -> None:
    if found:
        raise InputError(
            f"the output holds another job ({'; '.join(found)}); "
            "give another --output, or --overwrite to begin anew"
        )


def _refuse_input_in_output(files: list[InputFile], output: OutputDirectory) -> None:
    for file in files:
        if Path(file.path).is_relative_to(output.path.resolve()):
            raise InputError(f"{file.path} lies in --output {output.path}; give another --output")


def _finished_shards(plan: Plan, output: OutputDirectory) -> dict[int, ShardRecord]:
    """Records of the shards whose files are there, without reading the files."""
    found = {}
    for shard in plan.own_shards():
        try:
            record = ShardRecord.from_json(json.loads(output.record(shard).read_bytes()))
        except (FileNotFoundError, ValueError, TypeError, KeyError):
            continue  # not finished, or a record that a power cut damaged: made again
        else:
            if all(_has_size(output.path / file.file, file.bytes) for file in record.files):
                found[shard] = record
    return found


def _has_size(path: Path, size: int) -> bool:
    return path.exists() and path.stat().st_size == size


class _Run:
    """One run over the shards that are not finished."""

    def __init__(self, config: JobConfig, plan: Plan, output: OutputDirectory, worker: Worker):
        self._config, self._plan, self._output = config, plan, output
        self._worker = worker

    def make_shards(self, records: dict[int, ShardRecord], quiet: bool) -> list[ShardRecord]:
        """Make what is missing; adds to `records` and returns the new ones."""
        own = self._plan.own_shards()
        total = sum(self._plan.shard_size(shard) for shard in own)
        done = sum(record.rows for record in records.values())
        new = []
        self._write_failures(records.values())
        progress = make_progress(total, done, quiet)
        answers = Answers(self._output.answers)
        reader = RowReader(self._plan.files)
        try:
            for shard in own:
                if shard not in records:
                    failed = sum(record.failed_rows for record in records.values())
                    rows = reader.read(self._plan.starts[shard], self._plan.shard_size(shard))
                    records[shard] = self._make(shard, rows, answers, failed, progress)
                    new.append(records[shard])
                    progress.shard_done(records[shard].rows)
        finally:
            reader.close()
            answers.close()
            progress.close()
        return new

    def _make(
        self, shard: int, rows: Records, answers: Answers, failed_before: int, progress: Progress
    ) -> ShardRecord:
        start = time.monotonic()
        config, plan, output = self._config, self._plan, self._output
        first_id = shard * config.shard_rows
        failed = FailedRows(first_id, failed_before, config.max_failures)
        results = self._worker.work(rows, answers, progress, failed)
        writer = ShardWriter(config, plan, rows, results, first_id)
        files = []
        for folder in config.folders:
            # No empty files: `datasets` cannot read an empty one.
            if indices := writer.rows_of(folder):
                path = output.shard(folder, shard, plan.format)
                digest = writer.write(path, indices)
                name = f"{folder}/{path.name}"
                files.append(ShardFile(name, digest, path.stat().st_size, len(indices)))
        record = ShardRecord.of(files, results, first_id, time.monotonic() - start)
        write_json(output.record(shard), asdict(record))
        if record.failures:
            with output.failures.open("ab") as file:
                file.writelines(_failure_lines(record))
        return record

    def finish(self, kind: Kind, model_path: Path, records: Sequence[ShardRecord]) -> None:
        """Write what describes the whole; the manifest last, since it says that the job is done."""
        config, plan, output = self._config, self._plan, self._output
        self._write_failures(records)
        name = Path(config.model).name if Path(config.model).exists() else config.model
        with atomic_file(output.card) as file:
            file.write(kind.make_card(config, plan, name, Totals.of(records)).encode())
        write_json(output.manifest, make_manifest(config, plan, model_path, records))
        discard(output.answers)

    def _write_failures(self, records: Iterable[ShardRecord]) -> None:
        with atomic_file(self._output.failures) as file:
            for record in records:
                file.writelines(_failure_lines(record))


def _failure_lines(record: ShardRecord) -> list[bytes]:
    return [
        json_line({"row": row, "column": column, "reason": reason})
        for row, column, reason in record.failures
    ]
