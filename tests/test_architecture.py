"""The arrows between packages are those of the table in docs/architecture.md, and no others."""

import ast
import re
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "diapir"
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


def imports(path: Path) -> Iterator[str]:
    """Yield our own modules that a file names, without the leading 'diapir.'."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        names = [alias.name for alias in node.names]
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            names = [f"{node.module}.{name}" for name in names]
        yield from (name.removeprefix("diapir.") for name in names if name.startswith("diapir."))


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
