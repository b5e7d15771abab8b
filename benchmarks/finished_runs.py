"""What the programs share that write a page from finished runs of one split."""

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

from diapir.inference.predict import Predictor, load_predictor
from diapir.io.atomic import write_text_atomic
from diapir.io.tiles import Tiles
from diapir.report.markdown import markdown_table
from diapir.runs.folder import RunFolder, read_json


def read_options(described: str | None, *, least: int = 1) -> argparse.Namespace:
    """Return what the command line says: `runs`, `data` and `out`.

    Args:
        described: What the program does.
        least: Runs that it needs.
    """
    parser = argparse.ArgumentParser(description=described)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    if len(options.runs) < least:
        parser.error(f"give at least {least} runs")
    return options


def command(program: str, options: argparse.Namespace) -> str:
    """Return the command that makes a page."""
    words = [f"benchmarks/{program}", *options.runs, "--data", options.data, "--out", options.out]
    return shlex.join(["python", *map(str, words)])


def run_names(runs: Sequence[Path]) -> list[str]:
    """Return the names of the folders; their paths where two have one name."""
    names = [run.resolve().name for run in runs]
    return names if len(set(names)) == len(names) else [str(run) for run in runs]


def shared_validation(runs: Sequence[Path], tiles: Tiles) -> Tiles:
    """Return the validation tiles of runs that must agree on them."""
    ids = {tuple(read_json(RunFolder(run).split)["val"]) for run in runs}
    if len(ids) != 1:
        raise SystemExit("The runs have different validation tiles; give runs of one split.")
    (shared,) = ids
    if not shared:
        raise SystemExit("The runs have no validation tiles; give runs with split.val above 0.")
    return tiles.select(shared)


def open_run(run: Path) -> Predictor:
    """Return what predicts with a run's model."""
    predictor, _ = load_predictor([RunFolder(run).model])
    return predictor


def write_page(
    path: Path, head: str, columns: Sequence[str], rows: Sequence[Sequence[object]]
) -> None:
    """Write a page that ends in a table."""
    write_text_atomic(path, "\n".join([head, *markdown_table(columns, rows), ""]))
