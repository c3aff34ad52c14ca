"""The rooms of the package: imports run down, in no circle (for types neither), and no file is too long to see over."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "pesi"

# From the top down: a room imports from those in lines below its own, and from no other in its line.
LINES = (
    ("__main__",),
    ("cli",),
    ("evaluate",),
    ("explain", "train"),
    ("predict",),
    ("bundle",),
    ("decide", "datasets"),
    ("images",),
    ("nn", "stats", "synthetic"),
    ("taxonomy", "verdict"),
    ("files",),
    ("errors", "machine", "version"),
)
LINE = {room: number for number, rooms in enumerate(LINES) for room in rooms}


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name below `pesi`; the package itself is ""."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path, known: dict[str, Path]) -> set[str]:
    """The package's modules that a file imports, also inside functions and for types only."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "pesi":
            module = node.module.partition(".")[2]
            names = {f"{module}.{alias.name}".lstrip(".") for alias in node.names}
            found |= {name if name in known else module for name in names}
        elif isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[2] for alias in node.names if alias.name.split(".")[0] == "pesi"}
    return found


GRAPH = {name: imports(path, modules()) for name, path in modules().items()}


def test_every_room_has_its_line() -> None:
    rooms = {path.stem for path in PACKAGE.iterdir() if path.is_dir() and (path / "__init__.py").is_file()}
    rooms |= {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    assert rooms == set(LINE)


@pytest.mark.parametrize("name", [name for name in GRAPH if name])
def test_imports_run_down(name: str) -> None:
    room = name.split(".")[0]
    others = {target for target in GRAPH[name] if target.split(".")[0] != room}
    assert "" not in others, "the package's own face is for users"
    up = {target for target in others if LINE[target.split(".")[0]] <= LINE[room]}
    assert not up, f"{name} imports {sorted(up)}, which is not below it"


def test_there_is_no_circle() -> None:
    try:
        order = list(TopologicalSorter(GRAPH).static_order())
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))
    assert len(order) == len(GRAPH)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_is_one_thing(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400
