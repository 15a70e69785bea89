"""The shape of the source: who may import whom, who may touch JAX's internals, how long a file
is.
"""

import ast
import importlib
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "estimand"
FLOORS = ("transforms", "estimators", "ppl", "models")
INTERNALS = re.compile(r"jax\.(core|extend|interpreters|_src)\b")
MAY_TOUCH = {"transforms/primitives.py", "transforms/jaxprs.py"}
LINES = 320
FILES = sorted(SOURCE.rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))


def relative(file):
    return file.relative_to(SOURCE).as_posix()


def imported(file):
    """The absolute names of everything that a file imports."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{relative(file)}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def touched(file):
    """The internals of JAX that a file names, in an import or as an attribute."""
    names = list(imported(file))
    nodes = ast.walk(ast.parse(file.read_text()))
    names += [ast.unparse(node) for node in nodes if isinstance(node, ast.Attribute)]
    return sorted({name for name in names if INTERNALS.match(name)})


@pytest.mark.parametrize("file", FILES, ids=relative)
def test_a_floor_imports_only_floors_below(file):
    floor = file.relative_to(SOURCE).parts[0]
    if floor not in FLOORS:
        return
    for name in imported(file):
        package, *rest = name.split(".")
        if package == "estimand" and rest[0] in FLOORS:
            assert FLOORS.index(rest[0]) <= FLOORS.index(floor), f"{relative(file)} imports {name}"


@pytest.mark.parametrize("file", FILES, ids=relative)
def test_two_files_alone_touch_the_internals_of_jax(file):
    names = touched(file)
    assert not [name for name in names if name.startswith("jax._src")]
    if relative(file) not in MAY_TOUCH:
        assert not names


@pytest.mark.parametrize("file", FILES + TESTS, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_a_file_can_be_read_in_one_sitting(file):
    assert len(file.read_text().splitlines()) <= LINES


@pytest.mark.parametrize("floor", FLOORS)
def test_the_folders_at_the_root_are_for_readers_and_refuse_to_be_imported(floor, monkeypatch):
    link = ROOT / floor
    assert link.is_symlink() and link.resolve() == SOURCE / floor
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.delitem(sys.modules, floor, raising=False)
    with pytest.raises(ImportError, match=rf"estimand\.{floor}"):
        importlib.import_module(floor)


def test_every_public_name_is_documented():
    estimand = importlib.import_module("estimand")
    names = [name for name in vars(estimand) if not name.startswith("_")]
    public = [getattr(estimand, name) for name in names]
    undocumented = [x for x in public if callable(x) and not (x.__doc__ or "").strip()]
    assert not undocumented
