"""The command in this process: torch is imported once for all tests."""

import sys
from dataclasses import dataclass

import pytest

from hala_engine import cli
from hala_engine.cli.exits import run


@dataclass(frozen=True)
class Done:
    code: int
    stdout: str
    stderr: str

    @property
    def error(self) -> str:
        """The one line of a refusal."""
        [line] = self.stderr.splitlines()
        assert line.startswith("hala-engine: error: ")
        return line


@pytest.fixture
def command(monkeypatch, capsys):
    """`hala-engine ARGUMENTS...`."""

    def call(*arguments) -> Done:
        monkeypatch.setattr(sys, "argv", ["hala-engine", *map(str, arguments)])
        capsys.readouterr()
        code = run(cli.app)
        captured = capsys.readouterr()
        return Done(code, captured.out, captured.err)

    return call
