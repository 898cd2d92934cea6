"""The two errors that users meet. Every message is one line: what, where, how to mend it."""


class InputError(Exception):
    """Wrong usage or bad input, found before work began. The command line exits with 2."""


class JobError(Exception):
    """The work failed after it had begun; finished work is kept. The command line exits with 1."""
