"""The job: scan, load, then shard after shard, each finished for good before the next begins.

Why a rerun after `kill -9` ends with the same bytes. A shard and its record appear whole or not
at all, so what is finished is never touched again. What was in work is another matter: matrix
products of a batch are not bit-identical to those of another batch, and a near tie between two
tokens can then fall the other way. So a shard is made in blocks of requests: the engine is drained
at a block's end, which makes a block's results depend on its own requests alone, and they go into
a journal together. An interrupted block is made again as a whole. When the engine says that it is
`batch_invariant` (--deterministic) nothing needs draining, and every single result is kept at once.

Either way the same bytes are promised for the same command on the same machine with the same
package versions.
"""

import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hala_engine.errors import InputError, JobError
from hala_engine.translate.card import make_card
from hala_engine.translate.config import TranslateConfig
from hala_engine.translate.inputs import InputFile, find_files, read_rows
from hala_engine.translate.journal import Journal
from hala_engine.translate.manifest import ShardRecord, Totals, make_manifest
from hala_engine.translate.plan import Plan, differences, load_plan
from hala_engine.translate.progress import Progress, make_progress
from hala_engine.translate.scan import make_plan
from hala_engine.translate.shard import RowResult, Translator
from hala_engine.translate.storage import OutputDirectory, atomic_file, write_json
from hala_engine.translate.writing import json_line, write_shard

if TYPE_CHECKING:
    from hala_engine.engine import Engine


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


def translate_job(config: TranslateConfig, *, quiet: bool = True) -> JobResult:
    """Translate a dataset, or go on where an earlier run of the same job stopped.

    Raises InputError before any work is done, JobError when work has begun and cannot go on.
    """
    config.validate()
    output = OutputDirectory(Path(config.output))
    output.check(config.overwrite)
    files = find_files(config.inputs)
    _refuse_input_in_output(files, output)
    with output.locked():
        saved = None if config.overwrite else load_plan(output.plan)
        plan = _plan(config, files, saved)
        records = {} if saved is None else _finished_shards(plan, output)
        if output.manifest.exists() and len(records) == len(plan.own_shards()):
            return JobResult(output.path, Totals.of(list(records.values())), Totals.of([]), True)
        engine = load_engine(config)
        plan = _plan_with_model(plan, engine)
        translator = Translator(engine, config, plan.context)
        if config.overwrite:
            output.clear()
        try:
            write_json(output.plan, plan.to_json())
            output.data.mkdir(exist_ok=True)
            new = _Run(config, plan, output, translator).run(records, quiet)
        except OSError as error:
            raise JobError(
                f"{error.filename or output.path}: {error.strerror or error}; finished shards are "
                "kept: mend the cause and run the same command again"
            ) from error
    every = [records[shard] for shard in sorted(records)]
    return JobResult(
        output=output.path,
        job=Totals.of(every),
        run=Totals.of(new),
        already_complete=False,
        tokens_read=engine.stats.prompt_tokens,
        tokens_written=engine.stats.output_tokens,
    )


def load_engine(config: TranslateConfig) -> "Engine":
    """The engine of the job's model. Torch is imported here, when all else has been checked."""
    from hala_engine.engine import Engine, EngineConfig

    engine_config = EngineConfig(**config.engine.given())
    return Engine(config.model, revision=config.revision, config=engine_config)


def _plan(config: TranslateConfig, files: list[InputFile], saved: Plan | None) -> Plan:
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
    """Records of the shards whose data is there, without reading the data."""
    found = {}
    for shard in plan.own_shards():
        data, path = output.shard(shard, plan.format), output.record(shard)
        if path.exists() and data.exists():
            record = ShardRecord(**json.loads(path.read_bytes()))
            if data.stat().st_size == record.bytes:
                found[shard] = record
    return found


class _Run:
    """One run over the shards that are not finished."""

    def __init__(
        self, config: TranslateConfig, plan: Plan, output: OutputDirectory, translator: Translator
    ):
        self._config, self._plan, self._output = config, plan, output
        self._translator = translator

    def run(self, records: dict[int, ShardRecord], quiet: bool) -> list[ShardRecord]:
        """Finish the job; adds to `records` and returns the new ones."""
        own = self._plan.own_shards()
        total = sum(self._plan.shard_size(shard) for shard in own)
        done = sum(record.rows for record in records.values())
        new = []
        self._write_failures(records.values())
        progress = make_progress(total, done, quiet)
        try:
            for shard in own:
                if shard not in records:
                    failed = sum(record.failed_rows for record in records.values())
                    records[shard] = self._make(shard, failed, progress)
                    new.append(records[shard])
                    progress.shard_done(records[shard].rows)
        finally:
            progress.close()
        self._finish([records[shard] for shard in own])
        return new

    def _make(self, shard: int, failed_before: int, progress: Progress) -> ShardRecord:
        start = time.monotonic()
        config, plan, output = self._config, self._plan, self._output
        rows = read_rows(plan.files, plan.starts[shard], plan.shard_size(shard))
        first_id = shard * config.shard_rows
        journal = Journal(output.journal(shard))
        left = None if config.max_failures is None else config.max_failures - failed_before
        try:
            results = self._translator.translate(rows, journal, progress, left)
        finally:
            journal.close()
        keep = [
            index
            for index, result in enumerate(results)
            if not (config.drop_flagged and (result.flags or result.failures))
        ]
        path = output.shard(shard, plan.format)
        digest = write_shard(path, rows, results, first_id, keep, plan.schema)
        record = _record(path, digest, results, first_id, len(keep), time.monotonic() - start)
        write_json(output.record(shard), asdict(record))
        journal.discard()
        if record.failures:
            with output.failures.open("ab") as file:
                file.writelines(_failure_lines(record))
        return record

    def _finish(self, records: Sequence[ShardRecord]) -> None:
        """Write what describes the whole; the manifest last, since it says that the job is done."""
        config, plan, output = self._config, self._plan, self._output
        self._write_failures(records)
        model_path = self._translator.engine.model_path
        name = Path(config.model).name if Path(config.model).exists() else config.model
        with atomic_file(output.card) as file:
            file.write(make_card(config, plan, name, Totals.of(records)).encode())
        write_json(output.manifest, make_manifest(config, plan, model_path, records))

    def _write_failures(self, records: Sequence[ShardRecord]) -> None:
        with atomic_file(self._output.failures) as file:
            for record in records:
                file.writelines(_failure_lines(record))


def _record(
    path: Path,
    digest: str,
    results: Sequence[RowResult],
    first_id: int,
    written: int,
    seconds: float,
) -> ShardRecord:
    return ShardRecord(
        file=f"data/{path.name}",
        sha256=digest,
        bytes=path.stat().st_size,
        rows=len(results),
        rows_written=written,
        flags=dict(Counter(flag for result in results for flag in result.flags)),
        prompt_tokens=sum(result.prompt_tokens for result in results),
        output_tokens=sum(result.output_tokens for result in results),
        failures=[
            (first_id + index, column, reason)
            for index, result in enumerate(results)
            for column, reason in result.failures
        ],
        seconds=seconds,
    )


def _failure_lines(record: ShardRecord) -> list[bytes]:
    return [
        json_line({"row": row, "column": column, "reason": reason})
        for row, column, reason in record.failures
    ]
