r"""Minutes of training until a score on a hold-out: the baseline, and recipe `cpu`.

    python benchmarks/time_to_score.py split --data TGS holdout.json
    python benchmarks/time_to_score.py plain --data TGS --holdout holdout.json \
        --encoder tf_efficientnet_lite0.safetensors --epochs 6 8
    python benchmarks/time_to_score.py cpu --data TGS --holdout holdout.json \
        --encoder tf_efficientnet_lite0.safetensors --minutes 8 10
    python benchmarks/time_to_score.py table

Each training leaves a JSON file, in a folder of the machine's name, as soon as it has ended; one
whose file is there is not run again, so that a list of them can be interrupted. `table` writes what
the files of this machine say into the pages.

What counts: the seconds from building the network to each moment at which it is scored, with the
product's checkpoints and journal. What does not: importing libraries, reading the tiles, and
scoring, of which there is none inside the training itself on either side. Both are scored by the
same function, on the same tiles, mirrored at test time, at threshold 0.5. The product is scored
with the averaged weights that it would keep, as its own validation does. What is called
recipe `cpu` here is the network of `small`, with which `cpu` began when it was measured.
"""

import argparse
import json
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from performance_page import RESULTS, write_pages
from protocol import Measured, Row, Table
from time_to_score_sides import Trial, train_cpu, train_plain

LEVELS = (0.70, 0.75, 0.77, 0.80)
FASTER, AT = 2.0, 0.77
"""How many times as fast the product should be, and at which score."""
RUNS = RESULTS / "time-to-score"
SIDES = ("plain", "cpu")


TRAININGS = {"plain": (train_plain, "epochs"), "cpu": (train_cpu, "minutes")}


def run_side(given: argparse.Namespace) -> None:
    """Train each budget of one side whose result is not there yet."""
    import tempfile

    import torch

    from diapir.models.modelcard import library_versions, source_commit
    from diapir.runs.folder import write_json
    from diapir.runs.machine import describe_machine

    out = _folder(given)
    train, unit = TRAININGS[given.side]
    for budget in getattr(given, unit):
        result = out / f"{given.side}-{budget:g}-{unit}-seed-{given.seed}.json"
        if result.is_file():
            print(f"{result} is there already", flush=True)
            continue
        print(f"{given.side}, {budget:g} {unit}", flush=True)
        with tempfile.TemporaryDirectory(prefix="diapir-time-") as folder:
            observer = train(
                Trial(
                    given.data,
                    given.holdout,
                    given.encoder,
                    budget,
                    given.seed,
                    60 * given.every,
                    Path(folder),
                )
            )
        write_json(
            result,
            {
                "side": given.side,
                "budget": budget,
                "unit": unit,
                "seed": given.seed,
                "points": [[round(s, 2), round(score, 5)] for s, score in observer.points],
                "seconds_scoring": round(observer.spent, 1),
                "threads": torch.get_num_threads(),
                "machine": describe_machine(),
                "command": f"python benchmarks/time_to_score.py {given.side} --data DATA "
                f"--holdout HOLDOUT{' --encoder ENCODER' if given.encoder else ''} "
                f"--{unit} {budget:g} --every {given.every:g} --seed {given.seed}",
                "source": source_commit(),
                "versions": library_versions(),
                "date": datetime.now(UTC).date().isoformat(),
            },
        )


def minutes_to(points: Sequence[Sequence[float]], level: float) -> float:
    """Return the minutes of the first point at or above a score, infinity where there is none.

    >>> minutes_to([(60.0, 0.5), (120.0, 0.7), (180.0, 0.69)], 0.7)
    2.0
    """
    return min((seconds / 60 for seconds, score in points if score >= level), default=math.inf)


def summarise(runs: Sequence[dict[str, Any]]) -> Measured:
    """Return the fastest run of each side to each score, and all runs in a table.

    A side with one budget is not compared with a limit: a shorter schedule might be faster.
    """
    found = Measured()
    budgets = {side: len({run["budget"] for run in runs if run["side"] == side}) for side in SIDES}
    enough = min(budgets.values()) > 1
    for level in LEVELS:
        best = {
            side: min(
                (minutes_to(r["points"], level) for r in runs if r["side"] == side),
                default=math.inf,
            )
            for side in SIDES
        }
        if math.isinf(max(best.values())):
            continue
        found.rows.append(
            Row(
                "time",
                f"minutes of training to a score of {level:.2f}, baseline against recipe `cpu`: "
                f"{best['plain']:.1f} against {best['cpu']:.1f}",
                best["plain"] / best["cpu"],
                "x",
                FASTER if level == AT and enough else None,
                at_least=True,
            )
        )
    head = ["side", "budget", *(f"{level:.2f}" for level in LEVELS), "best score", "last score"]
    cells = [
        [
            {"plain": "baseline", "cpu": "recipe `cpu`"}[run["side"]],
            f"{run['budget']:g} {run['unit']}",
            *(_shown(minutes_to(run["points"], level)) for level in LEVELS),
            f"{max(score for _, score in run['points']):.4f}",
            f"{run['points'][-1][1]:.4f} at {run['points'][-1][0] / 60:.1f} min",
        ]
        for run in sorted(runs, key=lambda run: (SIDES.index(run["side"]), run["budget"]))
    ]
    note = "The rows above take the fastest training of each side to each score."
    if not enough:
        note += (
            " One side has a single budget: with a shorter schedule it may be faster to the lower "
            "scores, so that its rows are not held against a limit."
        )
    title = "Minutes of training until the score on the hold-out is reached"
    found.tables.append(Table(title, head, cells, note))
    return found


def _shown(minutes: float) -> str:
    return "not reached" if math.isinf(minutes) else f"{minutes:.1f}"


def _folder(given: argparse.Namespace) -> Path:
    """Return the folder of this machine's trainings."""
    from performance import machine_name

    from diapir.runs.machine import describe_machine

    out: Path = given.out / machine_name(describe_machine())
    return out


def write_table(given: argparse.Namespace) -> None:
    """Write what the finished trainings say into the results and the pages."""
    from performance import note

    from diapir.runs.machine import describe_machine

    out = _folder(given)
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(out.glob("*.json"))]
    runs = [run for run in found if run["machine"] == describe_machine()]  # with as many threads
    if not runs:
        raise SystemExit(f"no finished training in {out} is of this machine")
    seconds = sum(run["points"][-1][0] + run["seconds_scoring"] for run in runs)
    note(
        given.results,
        "time_to_score",
        summarise(runs),
        seconds,
        "\n".join(r["command"] for r in runs),
    )
    write_pages(given.results)


def write_split(given: argparse.Namespace) -> None:
    """Write a hold-out, stratified by depth and coverage as recipes can ask for it."""
    from diapir.config import SplitConfig
    from diapir.data.splits import make_splits
    from diapir.io.tiles import read_tiles
    from diapir.runs.folder import write_json

    tiles = read_tiles(given.data, "train", progress=False)
    config = SplitConfig(stratify="both", holdout=given.share, val=0, seed=given.seed)
    (split,) = make_splits(tiles, config)
    write_json(given.holdout, split.to_json(tiles.ids))


def main(arguments: list[str] | None = None) -> int:
    """Train one side, draw a hold-out, or write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    verbs = parser.add_subparsers(dest="side", required=True)
    for side in SIDES:
        verb = verbs.add_parser(side)
        verb.add_argument("--data", type=Path, required=True)
        verb.add_argument("--holdout", type=Path, required=True, help="JSON with a list 'holdout'")
        verb.add_argument("--encoder", type=Path, help="safetensors; none: random weights")
        verb.add_argument(f"--{TRAININGS[side][1]}", type=float, nargs="+", required=True)
        verb.add_argument("--every", type=float, default=1.0, help="minutes between scores")
        verb.add_argument("--seed", type=int, default=0)
        verb.add_argument("--out", type=Path, default=RUNS)
        verb.set_defaults(do=run_side)
    verb = verbs.add_parser("split")
    verb.add_argument("--data", type=Path, required=True)
    verb.add_argument("--share", type=float, default=0.2)
    verb.add_argument("--seed", type=int, default=0)
    verb.add_argument("holdout", type=Path)
    verb.set_defaults(do=write_split)
    verb = verbs.add_parser("table")
    verb.add_argument("--out", type=Path, default=RUNS)
    verb.add_argument("--results", type=Path, default=RESULTS)
    verb.set_defaults(do=write_table)
    given = parser.parse_args(arguments)
    given.do(given)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
