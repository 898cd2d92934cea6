"""The command that makes a job again, for its manifest."""

import shlex
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from hala_engine.jobs.config import JobConfig

# Said otherwise than `--field-name value`, or not part of what is made.
_NEGATED = {"chat_template", "prefix_caching"}
_REPEATED = {"stop"}
_OTHER_DEFAULT = {"columns"}  # on the command line there are none beside chats, unless named
_LEFT_OUT = {"inputs", "output", "overwrite"}


def command_line(config: JobConfig) -> str:
    """With every option that is not at its default; paths are as they were given."""
    words = ["hala-engine", config.command, *config.inputs, "--output", config.output]
    return shlex.join([*words, *_flags(config)])


def _flags(options: Any) -> Iterator[str]:
    for field in fields(options):
        value = getattr(options, field.name)
        if is_dataclass(value):
            yield from _flags(value)
        elif field.name in _OTHER_DEFAULT:
            yield from _flag(field.name, value) if value else ()
        elif field.name not in _LEFT_OUT and value != field.default:
            yield from _flag(field.name, value)


def _flag(name: str, value: Any) -> Iterator[str]:
    flag = name.replace("_", "-")
    if name in _NEGATED:
        yield f"--no-{flag}"
    elif value is True:
        yield f"--{flag}"
    elif name in _REPEATED:
        for one in value:
            yield from (f"--{flag}", one)
    elif name == "shard":
        yield from (f"--{flag}", "{}/{}".format(*value))
    else:
        yield f"--{flag}"
        yield ",".join(value) if isinstance(value, tuple) else str(value)
