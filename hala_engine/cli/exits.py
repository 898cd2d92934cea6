"""How a command ends: exit codes, one-line errors, signals.

0 done; 1 failed; 2 wrong usage or bad input found before work began; 3 done, but some rows failed;
130 and 143 stopped by SIGINT and SIGTERM with all finished work kept.
"""

import os
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from hala_engine.errors import InputError, JobError

FAILED, BAD_INPUT, SOME_ROWS_FAILED = 1, 2, 3

_RAISE_AGAIN_AFTER = 0.5  # seconds: far longer than a command takes to wind up

# typer keeps this class in a place that differs by its version.
_UsageError: type[Exception] = typer.BadParameter.__bases__[0]


class Stopped(BaseException):
    """SIGINT or SIGTERM came. Not an Exception, lest it be caught on its way out.

    outcome: what the command leaves behind.
    """

    outcome = "all finished work is kept, the same command resumes it"

    def __init__(self, signum: int):
        super().__init__(signal.Signals(signum).name)
        self.exit_code = 128 + signum


def run(app: typer.Typer) -> int:
    """Run a command of the app; returns the exit code. Errors become one line on stderr."""
    try:
        with _signals_raise():
            _check_environment()
            code = app(prog_name="hala-engine", standalone_mode=False)
    except Stopped as stop:
        return _fail(stop.exit_code, f"stopped by {stop}; {stop.outcome}")
    except _UsageError as error:
        return _usage(error)
    except typer.Abort:
        return _fail(FAILED, "aborted")
    except InputError as error:
        return _fail(BAD_INPUT, f"error: {error}")
    except (JobError, OSError) as error:
        return _fail(FAILED, f"error: {error}")
    except Exception as error:
        reason = " ".join(str(error).split())
        return _fail(
            FAILED,
            f"internal error: {type(error).__name__}: {reason} (--debug shows the traceback)",
        )
    return code if isinstance(code, int) else 0


@contextmanager
def leaves_nothing() -> Iterator[None]:
    """For commands whose output appears when they end: when stopped in this block, they say so."""
    try:
        yield
    except Stopped as stop:
        stop.outcome = "nothing was written, the same command begins anew"
        raise


def _check_environment() -> None:
    """HALA_KERNELS is looked at when kernels are imported, which may be in the midst of a command;
    where it is set, that is done now."""
    if os.environ.get("HALA_KERNELS"):
        try:
            import hala_kernels.backend  # noqa: F401
        except ValueError as error:
            raise InputError(str(error)) from None


def _usage(error: Exception) -> int:
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "hala-engine"
    message = error.format_message()
    if not message.strip():  # no arguments at all: the help has been printed instead
        return BAD_INPUT
    return _fail(BAD_INPUT, f"error: {message} (see {command} --help)")


def _fail(code: int, message: str) -> int:
    if "--debug" in sys.argv and sys.exc_info()[0] is not None:
        traceback.print_exc()
    one_line = " ".join(message.split("\n"))
    print(f"hala-engine: {one_line}", file=sys.stderr)
    return code


@contextmanager
def _signals_raise() -> Iterator[None]:
    """Raise Stopped at the first signal; a second one kills at once.

    Python drops an exception that is raised while it finalises an object, and a signal can arrive
    just then. So Stopped is raised again, by a timer, until the command has ended.
    """

    def stop(signum: int, _frame: object) -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGALRM, lambda *_: _raise(Stopped(signum)))
        signal.setitimer(signal.ITIMER_REAL, _RAISE_AGAIN_AFTER, _RAISE_AGAIN_AFTER)
        raise Stopped(signum)

    before = {name: signal.signal(name, stop) for name in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for name, handler in before.items():
            signal.signal(name, handler)


def _raise(error: BaseException) -> None:
    raise error
