"""One distribution, four packages: what a wheel holds and what importing it costs."""

import configparser
import importlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("hala_engine", "hala_kernels", "hala_trainer", "hala_tools")
COMMANDS = {"hala-engine", "hala-train", "hala-slerp"}
MODEL = "hala_engine/assets/hala-mini-en-ar"
MODEL_FILES = {
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "README.md",
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """Built without network from a copy, so that no stale build directory leaks into it."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    skip = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("hala_engine", "kernels", "trainer", "tools", "bench", "tests"):
        shutil.copytree(ROOT / name, source / name, ignore=skip)
    target = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    command += ["--no-build-isolation", "--no-index", "--wheel-dir", target, source]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    (file,) = target.glob("hala_engine-*.whl")
    return zipfile.ZipFile(file)


def test_wheel_holds_the_four_packages_and_no_bare_names(wheel: zipfile.ZipFile) -> None:
    tops = {name.split("/")[0] for name in wheel.namelist()}
    (metadata,) = {top for top in tops if top.endswith(".dist-info")}
    assert tops - {metadata} == set(PACKAGES)
    assert f"{metadata}/licenses/LICENSE" in wheel.namelist()


def test_wheel_holds_every_module_of_the_tree(wheel: zipfile.ZipFile) -> None:
    """A sub-package that the build forgets would only be missed by a user's install."""
    expected = set()
    for parent in (".", "kernels", "trainer", "tools"):
        for package in PACKAGES:
            directory = ROOT / parent / package
            expected |= {
                path.relative_to(ROOT / parent).as_posix() for path in directory.rglob("*.py")
            }
    assert expected <= set(wheel.namelist())


def test_wheel_holds_the_shipped_model(wheel: zipfile.ZipFile) -> None:
    inside = {n.removeprefix(MODEL + "/") for n in wheel.namelist() if n.startswith(MODEL + "/")}
    assert inside >= MODEL_FILES
    size = sum(i.file_size for i in wheel.infolist() if i.filename.startswith(MODEL + "/"))
    assert size <= 12 * 2**20, "the shipped model may take 12 MB"


def test_wheel_holds_every_launch_configuration(wheel: zipfile.ZipFile) -> None:
    kernels = ROOT / "kernels"
    expected = {
        path.relative_to(kernels).as_posix()
        for path in (kernels / "hala_kernels" / "configs").glob("*/*.json")
    }
    assert expected
    assert expected <= set(wheel.namelist())


def test_wheel_installs_the_commands(wheel: zipfile.ZipFile) -> None:
    (file,) = [n for n in wheel.namelist() if n.endswith("entry_points.txt")]
    points = configparser.ConfigParser()
    points.optionxform = str
    points.read_string(wheel.read(file).decode())
    assert set(points["console_scripts"]) == COMMANDS
    for target in points["console_scripts"].values():
        module, _, attribute = target.partition(":")
        assert callable(getattr(importlib.import_module(module), attribute)), target


def test_packages_import_from_an_unpacked_wheel(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    wheel.extractall(tmp_path)
    code = (
        "import importlib, sys\n"
        f"for name in {PACKAGES!r}:\n"
        "    print(importlib.import_module(name).__file__)\n"
        "assert 'torch' not in sys.modules, 'importing the packages loads torch'\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    places = [Path(line) for line in done.stdout.split()]
    assert [place.parent for place in places] == [tmp_path / name for name in PACKAGES]


@pytest.mark.parametrize("package", PACKAGES)
def test_this_environment_imports_the_package_from_the_tree(package: str) -> None:
    place = Path(importlib.import_module(package).__file__)
    assert place.parent.name == package
    assert place.is_relative_to(ROOT), f"{package} comes from {place}: run pip install -e ."


@pytest.mark.parametrize("module", ["hala_engine", "hala_engine.errors", "hala_engine.sampling"])
def test_light_modules_do_not_load_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_makefile_asks_for_the_torch_that_pyproject_does() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (torch,) = [r for r in project["dependencies"] if re.match(r"torch\b", r)]
    assert f"\nTORCH := {torch}\n" in (ROOT / "Makefile").read_text()


def test_licence_is_the_whole_apache_text() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert "Version 2.0, January 2004" in text
    assert text.count("\n") > 200
    assert "END OF TERMS AND CONDITIONS" in text
