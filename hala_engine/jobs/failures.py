"""How many rows may fail before a job gives up."""

from hala_engine.errors import JobError


class FailedRows:
    """The rows of one shard that failed. first_id: of the shard. before: rows of other shards that
    did. limit: of them all; None for any number."""

    def __init__(self, first_id: int, before: int, limit: int | None):
        self._first_id, self._before, self._limit = first_id, before, limit
        self._rows: set[int] = set()

    def add(self, row: int, column: str, reason: str) -> None:
        """The shard's `row` failed. Raises JobError when that is one too many."""
        self._rows.add(row)
        if self._limit is not None and self._before + len(self._rows) > self._limit:
            where = f", column {column!r}" if column else ""
            raise JobError(
                f"row {self._first_id + row}{where}: {reason}; more rows failed than "
                f"--max-failures {self._limit} allows: mend the input, or raise it and run the "
                "same command again (finished shards are kept)"
            )
