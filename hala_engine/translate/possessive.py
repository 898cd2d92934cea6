"""Regular expressions with possessive groups, such as (?:a|bc)*+, on every Python 3.11.

Before 3.11.5 (Debian 12 has 3.11.2) `re` loses matches of these where the group has to backtrack:
https://github.com/python/cpython/issues/106052. There each is compiled as what it stands for, the
greedy repeat in an atomic group. Possessive repeats of one character, [a-z]*+, were never wrong.
"""

import re
import sys
from collections.abc import Iterator
from re import _compiler, _parser
from re._constants import ATOMIC_GROUP, MAX_REPEAT, POSSESSIVE_REPEAT
from typing import Any


def compile_as_atomic(pattern: str, flags: int = 0) -> re.Pattern[str]:
    tree = _parser.parse(pattern, flags)
    _rewrite(tree)
    return _compiler.compile(tree, flags)


def _rewrite(tree: _parser.SubPattern) -> None:
    for place, (operation, argument) in enumerate(tree.data):
        for part in _parts(argument):
            _rewrite(part)
        if operation is POSSESSIVE_REPEAT:
            greedy = _parser.SubPattern(tree.state, [(MAX_REPEAT, argument)])
            tree.data[place] = (ATOMIC_GROUP, greedy)


def _parts(argument: Any) -> Iterator[_parser.SubPattern]:
    if isinstance(argument, _parser.SubPattern):
        yield argument
    elif isinstance(argument, (tuple, list)):
        for one in argument:
            yield from _parts(one)


compile_possessive = re.compile if sys.version_info >= (3, 11, 5) else compile_as_atomic
