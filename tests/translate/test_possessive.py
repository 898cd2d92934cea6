"""Possessive groups match alike on every Python, and no pattern goes round what makes them."""

import re
import subprocess
import sys

import pytest

from hala_engine.translate import possessive
from hala_engine.translate.possessive import compile_as_atomic, compile_possessive

CASES = [
    (r"(?:ab?c)*+", "aca", "ac"),
    (r"(?:ab?c)++", "abcacb", "abcac"),
    (r"x(?:ab?c)?+", "xa", "x"),
    (r"(?:ab?c){1,3}+", "acacacac", "acacac"),
    (r"(((?!C).)++)", "ABC", "AB"),
    (r"\$\$(?:[^$\n]|\n(?!\n)|\$(?!\$))++\$\$", "$$\na = b\n$$ done", "$$\na = b\n$$"),
    (r"<(?:a|(?:b(?:c|d)*+e)++)*+>", "<abcdebe>", "<abcdebe>"),
    (r"(?:a|ab)*+c", "abc", None),  # possessive: the a is not given back
    (r"(?i:(?:A|b)++)(?=C)", "aBC", "aB"),
]


@pytest.mark.parametrize("compile_", [compile_possessive, compile_as_atomic])
@pytest.mark.parametrize(("pattern", "text", "matched"), CASES)
def test_a_possessive_group_takes_all_it_can_and_gives_nothing_back(
    compile_, pattern, text, matched
):
    found = compile_(pattern).match(text)
    assert (found and found[0]) == matched


def test_flags_and_names_are_kept():
    found = compile_as_atomic(r"(?P<word> (?:[a-z] | \d)++ )", re.VERBOSE | re.IGNORECASE).match(
        "A1"
    )
    assert found["word"] == "A1"


LEFT = """
import importlib.util, pkgutil, re, sys
from re import _compiler, _parser
from re._constants import POSSESSIVE_REPEAT

# Before all that imports it, and in the form that makes no use of re.compile.
name, path = sys.argv[1:]
spec = importlib.util.spec_from_file_location(name, path)
possessive = sys.modules[name] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(possessive)
possessive.compile_possessive = possessive.compile_as_atomic
compiled, plainly = [], re.compile

def compile_and_tell(pattern, flags=0):
    if sys._getframe(1).f_globals["__name__"].startswith("hala_engine."):
        compiled.append((pattern, flags))
    return plainly(pattern, flags)

def groups(tree):
    for operation, argument in tree.data:
        if operation is POSSESSIVE_REPEAT and not _compiler._simple(argument[2]):
            yield operation
        for part in possessive._parts(argument):
            yield from groups(part)

re.compile = compile_and_tell
import hala_engine

for module in pkgutil.walk_packages(hala_engine.__path__, "hala_engine."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
print(len(compiled), [p for p, flags in compiled if any(groups(_parser.parse(p, flags)))])
"""


def test_every_pattern_with_one_is_compiled_by_it():
    command = [sys.executable, "-c", LEFT, possessive.__name__, possessive.__file__]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    count, left = out.split(" ", 1)
    assert int(count) > 50 and left == "[]\n"
