"""The two errors that users meet. Every message is one line: what, where, how to mend it."""


class InputError(Exception):
    """Wrong usage or bad input. The command line exits with 2."""


class MergeError(Exception):
    """The work failed after it had begun; nothing of it is left. The command line exits with 1."""
