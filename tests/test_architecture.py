"""Imports between packages are those of docs/architecture.md; within one they form no circle."""

import ast
import re
import resource
import subprocess
import sys
from collections.abc import Container, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "diapir"
PACKAGES = sorted(path.parent.name for path in SOURCE.glob("*/__init__.py"))
LIGHT = [
    "cli", "config", "progress", "io.tiles", "io.rle", "data.splits", "data.census",
    "data.synthetic", "metrics.score", "metrics.thresholds", "metrics.bootstrap",
    "report.figures", "report.html", "export.submission", "runs.folder", "io.opening", "io.ingest",
    "io.segy_doctor", "io.segy_write", "data.survey", "inference.predict", "runs.predict",
]  # fmt: skip


def table() -> dict[str, tuple[set[str], set[str]]]:
    """Return for each package its neighbours in the same row, and what it may import."""
    rows: dict[str, tuple[set[str], set[str]]] = {}
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    for first, last in re.findall(r"^\| (`[a-z_]+(?:/|\.py)`.*?) \|.*\| (.*?) \|$", text, re.M):
        names = set(re.findall(r"`([a-z_]+)(?:/|\.py)`", first))
        allowed = set(rows) if last == "anything" else set(re.findall(r"`([a-z_.]+)`", last))
        assert {name.split(".")[0] for name in allowed} <= set(rows), (
            f"{first} looks down the table"
        )
        rows |= dict.fromkeys(names, (names, allowed))
    return rows


def imports(path: Path, *, for_types: bool = True) -> Iterator[str]:
    """Yield our own modules and names that a file imports, without the leading 'diapir.'.

    With `for_types` also those that only a type checker imports.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    left_out = set() if for_types else type_checking(tree)
    for node in ast.walk(tree):
        if node in left_out or not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        names = [alias.name for alias in node.names]
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            names = [f"{node.module}.{name}" for name in names]
        yield from (name.removeprefix("diapir.") for name in names if name.startswith("diapir."))


def type_checking(tree: ast.Module) -> set[ast.AST]:
    """Return the nodes in blocks of `if TYPE_CHECKING:`, which nothing runs."""
    blocks = (node for node in ast.walk(tree) if isinstance(node, ast.If))
    bodies = (block.body for block in blocks if ast.unparse(block.test) == "TYPE_CHECKING")
    return {node for body in bodies for part in body for node in ast.walk(part)}


def modules() -> dict[str, Path]:
    """Return the files of all modules by name, of a package's `__init__` by the package's."""
    files = {path.relative_to(SOURCE).with_suffix("").parts: path for path in SOURCE.rglob("*.py")}
    return {
        ".".join(parts[:-1] if parts[-1] == "__init__" else parts): path
        for parts, path in files.items()
    }


def module_of(name: str, known: Container[str]) -> str:
    """Return the module that an imported name is or stands in."""
    while name not in known:
        name = name.rpartition(".")[0]
    return name


@pytest.mark.parametrize(
    "path", sorted(SOURCE.rglob("*.py")), ids=lambda p: str(p.relative_to(SOURCE))
)
def test_imports_follow_the_table(path: Path) -> None:
    package = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    same_row, allowed = table().get(package, ({"__init__"}, set()))
    assert package in same_row, f"{package} has no row in docs/architecture.md"
    for name in imports(path):
        fits = name == "__version__" or name.split(".")[0] in same_row
        fits |= any(f"{name}.".startswith(f"{one}.") for one in allowed)
        assert fits, (
            f"{package} imports {name}, which its row in docs/architecture.md does not list"
        )


@pytest.mark.parametrize("package", PACKAGES)
def test_modules_of_a_package_import_each_other_in_no_circle(package: str) -> None:
    known = modules()
    own = {name: path for name, path in known.items() if name.split(".")[0] == package}
    arrows = {
        name: own.keys() & {module_of(one, known) for one in imports(path, for_types=False)}
        for name, path in own.items()
    }
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' -> '.join(reversed(error.args[1]))}")


def test_light_modules_do_without_torch() -> None:
    code = f"""
import importlib, sys
for name in {LIGHT}:
    importlib.import_module("diapir." + name)
    if "torch" in sys.modules:
        sys.exit(name + " imports torch")
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_help_answers_in_half_a_second() -> None:
    command = [Path(sys.executable).with_name("diapir"), "--help"]
    seconds = []
    for _ in range(6):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        # processor time, which is the time on an idle core, whatever else the machine does
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(seconds) < 0.5
