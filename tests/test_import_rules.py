"""Who may import whom: the architecture's one-way streets, checked on every import in the tree.

Imports are read from the syntax, so lazy ones inside functions, `TYPE_CHECKING` ones and
`import_module("...")` with a literal name count as well.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {
    "hala_engine": ROOT / "hala_engine",
    "hala_kernels": ROOT / "kernels" / "hala_kernels",
    "hala_trainer": ROOT / "trainer" / "hala_trainer",
    "hala_tools": ROOT / "tools" / "hala_tools",
}
OURS = (*PACKAGES, "bench", "tests")


@dataclass(frozen=True)
class Rule:
    """Modules under `who` may not import what is under `never`, save what is under `but`.

    `exactly` lists further allowed modules without what lies under them. With `transitive`, what
    the imported modules of ours import counts too.
    """

    who: tuple[str, ...]
    never: tuple[str, ...]
    why: str
    but: tuple[str, ...] = ()
    exactly: tuple[str, ...] = ()
    transitive: bool = False


# What stands above Engine sees it, its parameters, its errors and its neighbours.
ABOVE_ENGINE = (
    "hala_engine.rows",
    "hala_engine.jobs",
    "hala_engine.translate",
    "hala_engine.completions",
    "hala_engine.judge",
    "hala_engine.evaluate",
)
PUBLIC = (
    "hala_engine.engine",
    "hala_engine.logprobs",
    "hala_engine.sampling",
    "hala_engine.errors",
)

RULES = {
    "kernels-stand-alone": Rule(
        who=("hala_kernels",),
        never=OURS,
        but=("hala_kernels",),
        why="hala_kernels is the lowest package and imports nothing else of ours",
    ),
    "engine-below-trainer-and-tools": Rule(
        who=("hala_engine",),
        never=("hala_trainer", "hala_tools", "bench", "tests"),
        why="hala_engine knows neither the trainer nor the tools; they use it",
    ),
    "trainer-uses-public-engine": Rule(
        who=("hala_trainer",),
        never=("hala_engine", "hala_tools", "bench", "tests"),
        but=("hala_engine.weights", *PUBLIC),
        exactly=("hala_engine",),
        why="hala_trainer may use the engine's public API and hala_engine.weights only",
    ),
    "slerp-stands-alone": Rule(
        who=("hala_tools.slerp",),
        never=(*OURS, "torch", "transformers"),
        but=("hala_tools.slerp",),
        exactly=("hala_tools",),
        why="the merge is numpy: nothing of ours, no torch, not through another module either",
        transitive=True,
    ),
    "miniature-drives-commands": Rule(
        who=("hala_tools.miniature",),
        never=("hala_engine", "hala_kernels", "hala_trainer", "bench", "tests"),
        why="the miniature runs hala-engine and hala-train as a user would, not their modules",
    ),
    "models-below-scheduler": Rule(
        who=("hala_engine.models", "hala_engine.layers"),
        never=("hala_engine.scheduler", "hala_engine.cache", "hala_engine.engine"),
        why="a model is given its cache; it knows neither the scheduler nor the cache manager",
    ),
    "jobs-above-engine": Rule(
        who=ABOVE_ENGINE,
        never=("hala_engine", "hala_kernels"),
        but=(*ABOVE_ENGINE, *PUBLIC),
        exactly=("hala_engine",),
        why="translate, judge and evaluate reach the model through Engine alone",
    ),
}


def is_under(module: str, roots: tuple[str, ...]) -> bool:
    return any(module == root or module.startswith(root + ".") for root in roots)


def imports_of(source: str, module: str, is_package: bool, known: set[str]) -> Iterator[str]:
    """Absolute names of the modules that `source`, the text of `module`, imports."""
    package = module if is_package else module.rpartition(".")[0]

    def absolute(name: str | None, level: int) -> str:
        if not level:
            return name or ""
        base = package.split(".")[: len(package.split(".")) - level + 1]
        return ".".join([*base, *([name] if name else [])])

    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = absolute(node.module, node.level)
            for alias in node.names:
                # `from package import name`: a submodule where there is one, else an attribute.
                submodule = f"{base}.{alias.name}"
                yield submodule if submodule in known else base
        elif isinstance(node, ast.Call) and node.args:
            called = node.func.attr if isinstance(node.func, ast.Attribute) else node.func
            called = called.id if isinstance(called, ast.Name) else called
            name = node.args[0]
            if (
                called in ("import_module", "__import__")
                and isinstance(name, ast.Constant)
                and isinstance(name.value, str)
            ):
                stripped = name.value.lstrip(".")
                yield absolute(stripped, len(name.value) - len(stripped))


Graph = dict[str, set[str]]


def build_graph(files: dict[str, tuple[str, bool]]) -> Graph:
    """Module -> modules it imports, from module -> (source, whether it is a package)."""
    return {
        module: set(imports_of(source, module, is_package, set(files)))
        for module, (source, is_package) in files.items()
    }


def reached(graph: Graph, module: str, transitive: bool) -> set[str]:
    if not transitive:
        return graph[module]
    found: set[str] = set()
    waiting = with_parents(module)
    while waiting:
        for name in graph.get(waiting.pop(), set()) - found:
            found.add(name)
            waiting += with_parents(name)
    return found


def with_parents(module: str) -> list[str]:
    """Importing a.b runs a/__init__.py as well."""
    parts = module.split(".")
    return [".".join(parts[:i]) for i in range(1, len(parts) + 1)]


def violations(graph: Graph, rule: Rule) -> list[str]:
    return [
        f"{module} imports {name}: {rule.why}"
        for module in sorted(graph)
        if is_under(module, rule.who)
        for name in sorted(reached(graph, module, rule.transitive))
        if is_under(name, rule.never) and not is_under(name, rule.but) and name not in rule.exactly
    ]


def tree_files() -> dict[str, tuple[str, bool]]:
    files = {}
    for package, directory in PACKAGES.items():
        for path in directory.rglob("*.py"):
            parts = [package, *path.relative_to(directory).with_suffix("").parts]
            is_package = parts[-1] == "__init__"
            files[".".join(parts[:-1] if is_package else parts)] = (path.read_text(), is_package)
    return files


@pytest.fixture(scope="module")
def tree() -> Graph:
    return build_graph(tree_files())


def test_the_tree_was_found(tree: Graph) -> None:
    assert set(PACKAGES) <= set(tree)
    assert "hala_engine.models.registry" in tree


@pytest.mark.parametrize("name", RULES)
def test_import_rule(name: str, tree: Graph) -> None:
    broken = violations(tree, RULES[name])
    assert not broken, "\n".join(broken)


MUTANTS = [
    ("kernels-stand-alone", "hala_kernels.norm", "from hala_engine.layers import norm"),
    ("engine-below-trainer-and-tools", "hala_engine.cli.x", "import hala_tools.slerp as merge"),
    ("engine-below-trainer-and-tools", "hala_engine.cli.bench", "from bench import engine_cpu"),
    ("trainer-uses-public-engine", "hala_trainer.x", "from hala_engine.runner import Runner"),
    ("trainer-uses-public-engine", "hala_trainer.x", "from hala_engine import scheduler"),
    ("slerp-stands-alone", "hala_tools.slerp", "def f():\n    import torch"),
    ("slerp-stands-alone", "hala_tools.slerp.io", "from hala_tools import helper"),
    ("miniature-drives-commands", "hala_tools.miniature.x", "from hala_engine import Engine"),
    ("models-below-scheduler", "hala_engine.models.x", "from ..scheduler import Scheduler"),
    ("models-below-scheduler", "hala_engine.models.x", "from .. import cache"),
    ("models-below-scheduler", "hala_engine.layers.x", "import hala_engine.cache"),
    (
        "models-below-scheduler",
        "hala_engine.models.x",
        "import importlib\nimportlib.import_module('..cache', __package__)",
    ),
    ("jobs-above-engine", "hala_engine.translate.x", "from hala_engine import runner"),
    ("jobs-above-engine", "hala_engine.judge.x", "import hala_kernels"),
    (
        "jobs-above-engine",
        "hala_engine.translate.x",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ..cache import Cache",
    ),
]


@pytest.mark.parametrize(("name", "module", "source"), MUTANTS)
def test_a_violation_is_caught(name: str, module: str, source: str) -> None:
    """Each rule bites: the same tree with one forbidden import is refused, and says why."""
    files = tree_files()
    files.setdefault("hala_engine.runner", ("", False))
    files["hala_tools.helper"] = ("from safetensors.torch import x\nimport torch", False)
    files[module] = (source, False)
    broken = violations(build_graph(files), RULES[name])
    mine = [line for line in broken if line.startswith(f"{module} imports ")]
    assert mine, f"{name} let {module} write: {source}"
    assert RULES[name].why in mine[0]


@pytest.mark.parametrize("through", ["hala_tools", "hala_tools.slerp"])
def test_slerp_may_not_reach_torch_through_a_package(through: str) -> None:
    files = {"hala_tools": ("", True), "hala_tools.slerp": ("", True)}
    files["hala_tools.slerp.merge"] = ("import numpy", False)
    rule = RULES["slerp-stands-alone"]
    assert not violations(build_graph(files), rule)
    files[through] = ("import torch", True)
    assert any("merge imports torch" in line for line in violations(build_graph(files), rule))


ALLOWED = [
    ("hala_trainer.x", "from hala_engine.weights import save\nfrom hala_engine import Engine"),
    ("hala_engine.translate.x", "from hala_engine.sampling import SamplingParams\nimport json"),
    ("hala_engine.runner", "import hala_kernels\nfrom .scheduler import Scheduler"),
    ("hala_tools.slerp", "import numpy\nfrom safetensors import safe_open"),
]


@pytest.mark.parametrize(("module", "source"), ALLOWED)
def test_what_the_rules_allow_passes(module: str, source: str) -> None:
    files = {**tree_files(), module: (source, False)}
    graph = build_graph(files)
    lines = [line for rule in RULES.values() for line in violations(graph, rule)]
    assert not [line for line in lines if line.startswith(f"{module} imports ")]
