"""Feeds damaged and hostile input to every reader, and counts what became of it.

    python benchmarks/fuzz.py --count 100000 --out docs/reliability/fuzz.json

Sound files of every kind are made, one of them is changed (`mutate.py`), and the reader is asked
to read it. It must return or raise a `DiapirError` within the limits of `trial.py`. Inputs are
numbered and follow from the seed. What is counted is written every 200 inputs, and `--resume` goes
on from there. `--reader png --number 17` makes one again and reads it with its
traceback.
"""

import argparse
import io
import json
import os
import random
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from mutate import mutate
from PIL import Image
from safetensors.torch import save_file
from trial import Outcome, Tally, attempt, run_trials

from diapir.config import ModelConfig, load_recipe, parse_recipe
from diapir.data.competition import write_competition
from diapir.data.splits import make_splits
from diapir.errors import DiapirError
from diapir.export.submission import check_submission
from diapir.io.atomic import write_bytes_atomic
from diapir.io.csv_tables import read_depths, read_rle_csv
from diapir.io.images import encode_mask_png, encode_png, read_grey, read_mask
from diapir.io.ingest import ingest
from diapir.io.labels import read_labels
from diapir.io.opening import open_volume
from diapir.io.rle import decode_rle
from diapir.io.segy_doctor import diagnose
from diapir.io.segy_write import write_segy
from diapir.io.tiles import Tiles, read_tiles
from diapir.io.volume import Geometry
from diapir.models.encoders import build_encoder
from diapir.models.modelcard import ModelCard
from diapir.models.modelfile import load_model, save_model
from diapir.models.unet import SaltNet
from diapir.report.html import ReportContent, write_report
from diapir.runs.folder import RunFolder
from diapir.runs.origin import read_origin
from diapir.training.checkpoints import LAST_CHECKPOINT
from diapir.training.fit import fit
from diapir.training.hardware import Hardware

Files = dict[str, bytes]
_RECIPE = parse_recipe(
    {
        "name": "tiny",
        "split": {"stratify": "none", "val": 0.25},
        "model": {"encoder": "scratch", "scratch_channels": [2, 4], "decoder_channels": [2]},
        "train": {"epochs": 1, "batch_size": 4, "precision": "float32"},
    },
    where="fuzz",
)


@dataclass(frozen=True)
class Reader:
    """A way in for other people's files.

    Args:
        make: Writes sound files into a folder.
        victims: Pattern of those that are changed, one at a time.
        read: Reads the folder; the second path is the file that is changed.
    """

    make: Callable[[Path], None]
    victims: str
    read: Callable[[Path, Path], object]


def each(*calls: Callable[[], object]) -> None:
    """Make every call; where some are refused, raise the last refusal at the end."""
    refusal: DiapirError | None = None
    for call in calls:
        try:
            call()
        except DiapirError as error:
            refusal = error
    if refusal is not None:
        raise refusal


def draw_tiles(count: int, first: int = 0, *, size: int = 12) -> Tiles:
    """Return tiles of noise with a bright half."""
    rng = np.random.default_rng(first)
    masks = np.zeros((count, size, size), np.uint8)
    masks[::2, size // 2 :] = 1
    images = (60 * masks + rng.integers(0, 99, masks.shape)).astype(np.uint8)
    ids = tuple(f"tile{first + k:03d}" for k in range(count))
    return Tiles(ids, images, masks, np.arange(count, dtype=np.float32) + 50, "fuzz")


# --- images, data sets, tables


def make_pictures(folder: Path) -> None:
    """Write a PNG of every kind."""
    grey = 255 * draw_tiles(1).truth[0]  # of two values, so that all of it can be a mask
    (folder / "grey8.png").write_bytes(encode_png(grey))
    (folder / "grey16.png").write_bytes(encode_mask_png(grey, bits=16))
    image = Image.fromarray(grey)
    for mode in ("RGB", "RGBA", "P", "1", "LA"):
        stream = io.BytesIO()
        image.convert(mode).save(stream, "PNG")
        (folder / f"{mode}.png").write_bytes(stream.getvalue())


def read_picture(folder: Path, changed: Path) -> None:
    """Read a PNG as an image, as a mask and as a section."""
    data = changed.read_bytes()
    reads = [partial(read_grey, data, "fuzz"), partial(read_mask, data, "fuzz")]
    each(*reads, partial(open_volume, changed))


def make_folders(folder: Path) -> None:
    """Write a data set as folders and tables."""
    write_competition(folder / "data", draw_tiles(4), draw_tiles(2, 100))


def make_zips(folder: Path) -> None:
    """Write a data set as zips."""
    write_competition(folder / "data", draw_tiles(4), draw_tiles(2, 100), zipped=True)


def read_data(folder: Path, changed: Path) -> None:
    """Read both parts."""
    data = folder / "data"
    each(partial(read_tiles, data, "train"), partial(read_tiles, data, "test"))


def make_tables(folder: Path) -> None:
    """Write tables of depths and masks, and run-lengths alone."""
    rows = [f"tile{k:03d},{k + 1} 3 {k + 20} 5" for k in range(12)]
    (folder / "submission.csv").write_text("\n".join(["id,rle_mask", *rows, ""]), encoding="utf-8")
    rows = [f"tile{k:03d},{k * 10}" for k in range(12)]
    (folder / "depths.csv").write_text("\n".join(["id,z", *rows, ""]), encoding="utf-8")
    (folder / "rle.txt").write_text("1 3 10 5 40 60 141 3", encoding="utf-8")


def read_tables(folder: Path, changed: Path) -> None:
    """Read tables and run-lengths, and check the submission."""
    ids = [f"tile{k:03d}" for k in range(12)]
    text = (folder / "rle.txt").read_bytes().decode("utf-8", "replace")
    each(
        partial(read_rle_csv, folder / "submission.csv"),
        partial(check_submission, folder / "submission.csv", ids, (12, 12)),
        partial(read_depths, folder / "depths.csv"),
        partial(decode_rle, text, (12, 12), "fuzz"),
    )


# --- recipes, models, runs


def make_recipes(folder: Path) -> None:
    """Write a recipe as TOML and as JSON."""
    (folder / "r.json").write_text(_RECIPE.model_dump_json(), encoding="utf-8")
    (folder / "r.toml").write_text(
        'name = "a"\n[model]\nencoder = "scratch"\nscratch_channels = [8, 16]\n'
        "decoder_channels = [8]\n[train]\nepochs = 3\nmax_minutes = 1.5\n"
        "[[loss.stages]]\nbce = 1.0\n[[loss.stages]]\nfrom_epoch = 2\nlovasz = 1.0\n",
        encoding="utf-8",
    )


def read_recipe(folder: Path, changed: Path) -> None:
    """Read a recipe."""
    load_recipe(str(changed))


def make_models(folder: Path) -> None:
    """Write a model file, and one of encoder weights."""
    torch.manual_seed(0)
    net = SaltNet(_RECIPE.model)
    card = ModelCard(_RECIPE, 0.4, {"val_score": 0.5}, "abc", ("a", "b"), ("c",)).stamped()
    save_model(folder / "model.safetensors", net, card)
    encoder, _ = build_encoder(ModelConfig(encoder="test_resnet"), 3)
    save_file(encoder.state_dict(), folder / "encoder.safetensors")


def read_model(folder: Path, changed: Path) -> None:
    """Load a model file, or encoder weights."""
    if changed.stem == "model":
        load_model(changed)
    else:
        build_encoder(ModelConfig(encoder="test_resnet", weights=str(changed)), 1)


def make_run(folder: Path) -> None:
    """Train for an epoch."""
    tiles = draw_tiles(12)
    split = make_splits(tiles, _RECIPE.split)[0]
    run = RunFolder(folder / "run")
    run.make()
    run.write_inputs(_RECIPE, split, tiles)
    fit(tiles, split, _RECIPE, run.path, hardware=Hardware("cpu", progress=False))
    shutil.rmtree(run.path / "logs")


def read_run(folder: Path, changed: Path) -> None:
    """Go on with the run."""
    tiles = draw_tiles(12)
    run = RunFolder(folder / "run")
    recipe, split = run.read_inputs(tiles)
    longer = recipe.model_copy(update={"train": _RECIPE.train})  # never more than the one epoch
    if (run.path / LAST_CHECKPOINT).is_file():
        fit(tiles, split, longer, run.path, resume=True, hardware=Hardware("cpu", progress=False))


# --- surveys

_SHAPE = (6, 7, 30)


def geometry(shape: tuple[int, ...] = _SHAPE) -> Geometry:
    """Return the geometry of a small survey."""
    place = np.meshgrid(*(np.arange(n) for n in shape[:-1]), indexing="ij")
    return Geometry(
        axes={
            "inline": np.arange(100, 100 + shape[0], dtype=np.int32),
            "crossline": np.arange(300, 300 + shape[1], dtype=np.int32),
        },
        sample=4.0 * np.arange(shape[-1]),
        unit="ms",
        trace_mask=np.ones(shape[:-1], np.bool_),
        cdp_x=430_000.0 + 25 * place[0],
        cdp_y=6_780_000.0 + 12.5 * place[-1],
    )


def amplitudes() -> np.ndarray:
    """Return smooth noise of the small survey."""
    noise = np.random.default_rng(0).normal(size=_SHAPE)
    return np.cumsum(noise, axis=-1).round().clip(-99, 99).astype(np.float32)


def make_segy(folder: Path) -> None:
    """Write SEG-Y files in several formats and both byte orders."""
    values = amplitudes()
    for code, order in ((1, "big"), (3, "big"), (5, "little"), (8, "big")):
        path = folder / f"{code}-{order}.sgy"
        how: dict[str, Any] = {"code": code, "byte_order": order}
        write_segy(path, lambda part: values[tuple(part.T)], geometry(), **how)


def read_segy(folder: Path, changed: Path) -> None:
    """Open a file, read its samples, and ask the doctor."""
    each(partial(compute, changed), partial(diagnose_soundly, changed))


def diagnose_soundly(path: Path) -> None:
    """Ask the doctor, who catches what he does not expect: that counts as a failure here."""
    for finding in diagnose(path).findings:
        if "examination failed" in finding.what:
            raise RuntimeError(finding.what)


def compute(path: Path) -> None:
    """Read the samples of a survey, no more than some millions."""
    volume = open_volume(path)["amplitude"]
    part = tuple(slice(0, 64) for _ in volume.dims)
    np.asarray(volume[part])


def make_store(folder: Path) -> None:
    """Ingest a SEG-Y file."""
    make_segy(folder)
    ingest(folder / "5-little.sgy", folder / "cube.zarr", workers=1)
    for path in folder.glob("*.sgy"):
        path.unlink()


def read_store(folder: Path, changed: Path) -> None:
    """Open the store and read all its samples."""
    compute(folder / "cube.zarr")


def make_arrays(folder: Path) -> None:
    """Write NumPy arrays of a volume and of a section."""
    np.save(folder / "cube.npy", amplitudes())
    np.save(folder / "section.npy", amplitudes()[0].T.astype(">i2"))


def read_array(folder: Path, changed: Path) -> None:
    """Read an array."""
    compute(changed)


def make_labels(folder: Path) -> None:
    """Write interpreted lines as pictures, as an array and as a store."""
    make_store(folder)
    (folder / "lines").mkdir()
    mask = (amplitudes()[0] > 0).T
    for name in ("inline_101", "inline_103"):
        (folder / "lines" / f"{name}.png").write_bytes(encode_mask_png(mask))
    np.save(folder / "labels.npy", (amplitudes() > 0).astype(np.int8))
    import xarray as xr

    labels = xr.Dataset({"labels": (("inline", "crossline", "sample"), (amplitudes() > 0) * 1)})
    labels.to_zarr(folder / "labels.zarr", zarr_format=3, consolidated=False)


def read_all_labels(folder: Path, changed: Path) -> None:
    """Read the labels against the sound survey."""
    kind = changed.relative_to(folder).parts[0]
    read_labels(folder / kind, open_volume(folder / "cube.zarr"))


# --- what says how a result was made


def make_origins(folder: Path) -> None:
    """Write a submission with its JSON, and a report."""
    origin = {
        "versions": {"diapir": "1"},
        "git": None,
        "models": [{"file": "m", "seed": "0", "metrics": {"val_score": 0.5}}],
    }
    (folder / "s.csv").write_text("id,rle_mask\na,1 2\n", encoding="utf-8")
    (folder / "s.json").write_text(json.dumps({**origin, "sha256": "0"}), encoding="utf-8")
    write_report(folder / "report.html", ReportContent("Run", origin=origin))


def read_origins(folder: Path, changed: Path) -> None:
    """Ask both how they were made."""
    each(*(partial(read_origin, folder / name) for name in ("s.csv", "s.json", "report.html")))


READERS = {
    "png": Reader(make_pictures, "*.png", read_picture),
    "zip": Reader(make_zips, "data/*.zip", read_data),
    "folder": Reader(make_folders, "data/**/*.*", read_data),
    "csv and run-lengths": Reader(make_tables, "*.*", read_tables),
    "recipe": Reader(make_recipes, "r.*", read_recipe),
    "model file": Reader(make_models, "*.safetensors", read_model),
    "origin": Reader(make_origins, "*.*", read_origins),
    "run folder": Reader(make_run, "run/**/*.*", read_run),
    "SEG-Y": Reader(make_segy, "*.sgy", read_segy),
    "Zarr": Reader(make_store, "cube.zarr/**/*", read_store),
    "NumPy": Reader(make_arrays, "*.npy", read_array),
    "labels": Reader(make_labels, "l*/**/*", read_all_labels),
}
SHARES = {"run folder": 0.2, "Zarr": 0.5, "labels": 0.5}
"""Of the inputs that other readers get: these are slow."""


def inputs(name: str, seed: int, folder: Path, number: int) -> Iterator[Outcome]:
    """Yield the outcomes of one reader from an input's number on, without end."""
    warnings.simplefilter("ignore")
    reader, sound = prepare(name, folder)
    while True:
        with Changed(sound, folder, f"{name} {seed} {number}") as change:
            yield attempt(f"{name} {number}", partial(reader.read, folder, change.path))
        number += 1


def prepare(name: str, folder: Path) -> tuple[Reader, Files]:
    """Write the sound files of a reader, see that they are read, and return what to change."""
    reader = READERS[name]
    reader.make(folder)
    loose = [*folder.glob(reader.victims), *folder.glob("labels.npy")]
    paths = sorted({path for path in loose if path.is_file()})
    for path in paths:
        reader.read(folder, path)
    return reader, {str(path.relative_to(folder)): path.read_bytes() for path in paths}


class Changed:
    """Keeps one file changed inside the `with` block."""

    def __init__(self, sound: Files, folder: Path, key: str) -> None:
        rng = random.Random(key)  # noqa: S311  # to be made again
        self.name = rng.choice(sorted(sound))
        self.path, self.sound = folder / self.name, sound[self.name]
        self.data = mutate(self.sound, self.name, rng)

    def __enter__(self) -> Self:
        self.path.write_bytes(self.data)
        return self

    def __exit__(self, *args: object) -> None:
        self.path.write_bytes(self.sound)


_KEPT_EVERY = 200
"""Inputs; what is counted is written so often."""


def shares(count: int) -> dict[str, int]:
    """Return how many inputs each reader gets."""
    weights = {name: SHARES.get(name, 1.0) for name in READERS}
    unit = count / sum(weights.values())
    return {name: int(np.ceil(unit * weight)) for name, weight in weights.items()}


def fuzz(
    count: int, seed: int, minutes: float, tallies: dict[str, Tally], keep: Callable[[], None]
) -> None:
    """Add to the counts of each reader; every reader gets its part of the time, too.

    Args:
        count: Of inputs in all, those included that are counted already.
        seed: From which they follow.
        minutes: At most, for all readers.
        tallies: By reader; what is counted already is not tried again.
        keep: Called now and then.
    """
    wanted = shares(count)
    for name, number in wanted.items():
        tally = tallies.setdefault(name, Tally())
        until = time.monotonic() + 60 * minutes * number / sum(wanted.values())
        for outcome in run_trials(number, partial(inputs, name, seed), first=tally.tried):
            tally.add(outcome)
            if outcome.failed:
                print(f"{outcome.name}: {outcome.kind}: {outcome.detail}", file=sys.stderr)
            if tally.tried % _KEPT_EVERY == 0:
                keep()
            if time.monotonic() > until:
                break
        keep()
        print(f"{name}: {tally.tried:,} tried, {tally.failed} failed", file=sys.stderr)


def main() -> None:
    """Try, print, and write the counts where asked."""
    parser = argparse.ArgumentParser(description="Feed rubbish to every reader.")
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=1e6, help="end by then")
    parser.add_argument("--out", type=Path, help="JSON file for the counts")
    parser.add_argument("--resume", action="store_true", help="count on from what --out holds")
    parser.add_argument("--reader", choices=READERS, help="with --number: this input alone")
    parser.add_argument("--number", type=int)
    wanted = parser.parse_args()
    if wanted.reader:
        again(wanted.reader, wanted.seed, wanted.number or 0)
        return
    tallies, minutes = earlier(wanted.out, wanted.seed) if wanted.resume else ({}, 0.0)
    started = time.monotonic()
    found: dict[str, Any] = {}

    def keep() -> None:
        found.update(
            asked=wanted.count,
            tried=sum(tally.tried for tally in tallies.values()),
            failed=sum(tally.failed for tally in tallies.values()),
            minutes=round(minutes + (time.monotonic() - started) / 60, 1),
            seed=wanted.seed,
            readers={name: tally.to_json() for name, tally in tallies.items()},
        )
        if wanted.out:
            write_bytes_atomic(wanted.out, (json.dumps(found, indent=2) + "\n").encode())

    fuzz(wanted.count, wanted.seed, wanted.minutes, tallies, keep)
    print(f"{found['tried']:,} tried, {found['failed']} failed")
    sys.exit(bool(found["failed"]))


def earlier(out: Path | None, seed: int) -> tuple[dict[str, Tally], float]:
    """Return what an earlier call has counted, and the minutes that took; nothing without one."""
    if out is None or not out.is_file():
        return {}, 0.0
    found = json.loads(out.read_text(encoding="utf-8"))
    if found["seed"] != seed:
        sys.exit(f"{out} counts inputs of seed {found['seed']}: give --seed {found['seed']}")
    counts = found["readers"].items()
    return {name: Tally.from_json(tally) for name, tally in counts}, float(found["minutes"])


def again(name: str, seed: int, number: int) -> None:
    """Make one input in a folder that stays, and read it with its traceback."""
    folder = Path("fuzz-input")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    reader, sound = prepare(name, folder)
    with Changed(sound, folder, f"{name} {seed} {number}") as change:
        print(f"{change.name}: {change.data[:300]!r}")
        reader.read(folder, change.path)


if __name__ == "__main__":
    main()
