"""Makes hostile model files and shows that none gets past the error that says so.

    python benchmarks/hostile.py --out docs/reliability/hostile.json

Each file is offered to `load_model` and `read_card` in a child process with the limits of
`trial.py`. Pickles in the files would leave a mark on the disk if anything ran them.
"""

import argparse
import io
import json
import os
import pickle
import struct
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from trial import REFUSED, Outcome, Tally, attempt, run_trials

from diapir.config import parse_recipe
from diapir.errors import ModelFileError
from diapir.io.atomic import write_bytes_atomic
from diapir.models.modelcard import LATEST_FORMAT, ModelCard, read_card
from diapir.models.modelfile import load_model, save_model
from diapir.models.unet import SaltNet

MARK = "EXECUTED"
"""File that a hostile file makes beside itself once its code is run."""

State = dict[str, Tensor]
Maker = Callable[[Path], None]


class Bomb:
    """Runs a command when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def sound_file(path: Path) -> None:
    """Write a model file with nothing wrong."""
    recipe = parse_recipe(
        {
            "name": "tiny",
            "model": {"encoder": "scratch", "scratch_channels": [2, 4], "decoder_channels": [2]},
        },
        where="hostile",
    )
    torch.manual_seed(0)
    save_model(path, SaltNet(recipe.model), ModelCard(recipe, 0.5).stamped())


# --- files that are something else


def pickles(path: Path) -> None:
    """Write a bare pickle."""
    path.write_bytes(pickle.dumps({"weight": Bomb(path.with_name(MARK))}))


def torch_file(path: Path) -> None:
    """Write what `torch.save` writes: a zip around a pickle."""
    torch.save({"state_dict": {"head.weight": Bomb(path.with_name(MARK))}}, path)


def old_torch_file(path: Path) -> None:
    """Write what older versions of `torch.save` wrote: pickles in a row."""
    bomb = {"state_dict": Bomb(path.with_name(MARK))}
    torch.save(bomb, path, _use_new_zipfile_serialization=False)


def object_array(path: Path) -> None:
    """Write a NumPy array of objects, which is a pickle inside."""
    with path.open("wb") as file:
        np.save(file, np.array([Bomb(path.with_name(MARK))], dtype=object), allow_pickle=True)


def scripted(path: Path) -> None:
    """Write a TorchScript module, which is code."""
    torch.jit.script(torch.nn.ReLU()).save(str(path))  # type: ignore[no-untyped-call]


def broken_zip(path: Path) -> None:
    """Write the first half of a zip."""
    torch_file(path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def climbing_zip(path: Path) -> None:
    """Write a zip whose entry would land two folders up."""
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr(f"../../{MARK}", "x")


def climbing_tar(path: Path) -> None:
    """Write a tar whose entry would land two folders up."""
    with tarfile.open(path, "w") as packed:
        packed.addfile(tarfile.TarInfo(f"../../{MARK}"), io.BytesIO())


def plain_bytes(data: bytes) -> Maker:
    """Return what writes some bytes."""
    return lambda path: path.write_bytes(data) and None


def link_to_itself(path: Path) -> None:
    """Make a link that leads nowhere."""
    path.symlink_to(path)


# --- safetensors files that lie


def header(change: Callable[[dict[str, Any]], Any], tail: bytes | None = None) -> Maker:
    """Return what writes the sound file with another header."""

    def write(path: Path) -> None:
        sound_file(path)
        data = path.read_bytes()
        (length,) = struct.unpack_from("<Q", data)
        table = json.loads(data[8 : 8 + length])
        change(table)
        text = json.dumps(table).encode()
        body = data[8 + length :] if tail is None else tail
        path.write_bytes(struct.pack("<Q", len(text)) + text + body)

    return write


def tensors(change: Callable[[State], Any]) -> Maker:
    """Return what writes the sound file with other tensors."""

    def write(path: Path) -> None:
        sound_file(path)
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
        state = load_file(path)
        change(state)
        save_file(state, path, metadata=metadata)

    return write


def card(change: Callable[[dict[str, Any]], Any]) -> Maker:
    """Return what writes the sound file with another card."""

    def within(table: dict[str, Any]) -> None:
        inner = json.loads(table["__metadata__"]["diapir"])
        changed = change(inner)
        inner = inner if changed is None else changed
        table["__metadata__"]["diapir"] = inner if isinstance(inner, str) else json.dumps(inner)

    return header(within)


def model(**settings: Any) -> Maker:
    """Return what writes the sound file with other settings of the network in its recipe."""
    return card(lambda table: table["recipe"]["model"].update(settings))


def claim(length: int) -> Maker:
    """Return what writes a file whose header claims a length."""

    def write(path: Path) -> None:
        sound_file(path)
        path.write_bytes(struct.pack("<Q", length) + path.read_bytes()[8:])

    return write


def huge_header(path: Path) -> None:
    """Write a header of 90 MB that is really there: a card of millions of ids."""
    sound_file(path)
    table = json.dumps({"__metadata__": {"diapir": "[" + "[]," * 30_000_000 + "0]"}}).encode()
    path.write_bytes(struct.pack("<Q", len(table)) + table)


def _first(table: dict[str, Any]) -> dict[str, Any]:
    return next(value for name, value in table.items() if name != "__metadata__")


def _overlap(table: dict[str, Any]) -> None:
    entries = [value for name, value in table.items() if name != "__metadata__"]
    entries[1]["data_offsets"] = entries[0]["data_offsets"]


def _fill(state: State, value: float) -> None:
    state["head.weight"] = state["head.weight"].detach().clone().fill_(value)


EXTENSIONS = ("pt", "pth", "pkl", "ckpt", "bin", "npy", "onnx", "zip", "safetensors")

HOSTILE: dict[str, Maker] = {
    **{f"pickle.{suffix}": pickles for suffix in EXTENSIONS},
    **{f"torch-save.{suffix}": torch_file for suffix in EXTENSIONS},
    "torch-save-of-old.pt": old_torch_file,
    "torch-save-of-old.safetensors": old_torch_file,
    "objects.npy": object_array,
    "objects.safetensors": object_array,
    "torchscript.pt": scripted,
    "torchscript.safetensors": scripted,
    "broken-zip.zip": broken_zip,
    "broken-zip.safetensors": broken_zip,
    "climbing-zip.safetensors": climbing_zip,
    "climbing-tar.safetensors": climbing_tar,
    "empty.safetensors": plain_bytes(b""),
    "zeros.safetensors": plain_bytes(bytes(4096)),
    "text.safetensors": plain_bytes(b"import os; os.system('true')\n" * 40),
    "html.safetensors": plain_bytes(b"<!DOCTYPE html><script>alert(1)</script>" * 40),
    "link-to-itself.safetensors": link_to_itself,
    "header-claims-2-to-the-63.safetensors": claim(1 << 63),
    "header-claims-99-MB.safetensors": claim(99_000_000),
    "header-of-90-MB.safetensors": huge_header,
    "deep-header.safetensors": plain_bytes(struct.pack("<Q", 100_000) + b"[" * 100_000),
    "no-body.safetensors": header(lambda table: None, b""),
    "longer-body.safetensors": header(lambda table: None, bytes(1 << 16)),
    "no-metadata.safetensors": header(lambda table: table.pop("__metadata__")),
    "shape-too-large.safetensors": header(lambda t: _first(t).update(shape=[1 << 20, 1 << 20])),
    "shape-overflows.safetensors": header(lambda t: _first(t).update(shape=[1 << 62, 1 << 62])),
    "shape-negative.safetensors": header(lambda t: _first(t).update(shape=[-1])),
    "unknown-dtype.safetensors": header(lambda t: _first(t).update(dtype="PICKLE")),
    "offsets-outside.safetensors": header(lambda t: _first(t).update(data_offsets=[0, 1 << 40])),
    "offsets-backwards.safetensors": header(lambda t: _first(t).update(data_offsets=[64, 0])),
    "offsets-overlap.safetensors": header(_overlap),
    "other-shape.safetensors": tensors(
        lambda s: s.update({"head.weight": torch.zeros(1, 7, 1, 1)})
    ),
    "transposed.safetensors": tensors(
        lambda s: s.update({"head.weight": torch.zeros(tuple(s["head.weight"].shape)[::-1])})
    ),
    "nan.safetensors": tensors(lambda s: _fill(s, float("nan"))),
    "infinity.safetensors": tensors(lambda s: _fill(s, float("inf"))),
    "one-key-less.safetensors": tensors(lambda s: s.pop("head.bias")),
    "one-key-more.safetensors": tensors(lambda s: s.update(trojan=torch.zeros(3))),
    "ten-thousand-keys-more.safetensors": tensors(
        lambda s: s.update({f"trojan.{k}": torch.zeros(1) for k in range(10_000)})
    ),
    "no-keys.safetensors": tensors(lambda s: s.clear()),
    "format-from-the-future.safetensors": card(lambda t: t.update(format=LATEST_FORMAT + 1)),
    "recipe-from-the-future.safetensors": card(lambda t: t["recipe"].update(quantum={"on": True})),
    "setting-from-the-future.safetensors": model(attention="linear"),
    "format-as-text.safetensors": card(lambda t: t.update(format="1")),
    "no-threshold.safetensors": card(lambda t: t.pop("threshold") and None),
    "threshold-2.safetensors": card(lambda t: t.update(threshold=2)),
    "threshold-nan.safetensors": card(lambda t: t.update(threshold=float("nan"))),
    "card-is-a-list.safetensors": card(lambda t: []),
    "card-is-deep.safetensors": card(lambda t: "[" * 100_000),
    "card-is-code.safetensors": card(lambda t: "__import__('os').system('true')"),
    "encoder-is-a-path.safetensors": model(encoder="../../etc/passwd"),
    "encoder-is-an-address.safetensors": model(encoder="hf-hub:someone/thing"),
    "encoder-is-a-folder.safetensors": model(encoder="local-dir:/tmp"),
    "encoder-unknown.safetensors": model(encoder="no_such_net"),
    "other-encoder.safetensors": model(encoder="resnet18", decoder_channels=[8] * 5),
    "giant-network.safetensors": model(
        scratch_channels=[4096] * 8, decoder_channels=[4096] * 7
    ),
    "giant-encoder.safetensors": model(encoder="convnext_xxlarge", decoder_channels=[8] * 5),
}  # fmt: skip
"""Every hostile file by its name, with what writes it."""


def offer(path: Path) -> None:
    """Load a file by both ways in.

    Raises:
        ModelFileError: As it should be.
        RuntimeError: The file got through, or its code ran.
    """
    seen = 0
    for load in (read_card, load_model):
        try:
            load(path)
        except ModelFileError as error:
            if not (str(path) in str(error) and error.mend):
                raise RuntimeError(f"the error does not say what and where: {error}") from error
            seen += 1
            refusal = error
    executed = [place for place in (path.parent, *path.parents[1:3]) if (place / MARK).exists()]
    if executed:
        raise RuntimeError("code out of the file ran")
    if not seen:
        raise RuntimeError("the file was loaded")
    load_refused(path)
    raise refusal


def load_refused(path: Path) -> None:
    """See that the weights are never handed out; a card alone may be sound."""
    try:
        load_model(path)
    except ModelFileError:
        return
    raise RuntimeError("the weights were loaded")


def outcomes(names: list[str], folder: Path, number: int) -> Iterator[Outcome]:
    """Yield the outcome of each file from a number on."""
    place = folder / "a" / "b"
    place.mkdir(parents=True)
    sound_file(place / "sound.safetensors")
    load_model(place / "sound.safetensors")  # the libraries are loaded, and it works
    for name in names[number:]:
        path = place / name
        HOSTILE[name](path)
        yield attempt(name, partial(offer, path))
        path.unlink()


def try_all(names: list[str] | None = None) -> tuple[list[Outcome], Tally]:
    """Return what became of every hostile file."""
    names = sorted(HOSTILE) if names is None else names
    tally, found = Tally(), []
    for outcome in run_trials(len(names), partial(outcomes, names)):
        tally.add(outcome)
        found.append(outcome)
    return found, tally


def main() -> None:
    """Try, print, and write the counts where asked."""
    parser = argparse.ArgumentParser(description="Offer hostile model files.")
    parser.add_argument("--out", type=Path, help="JSON file for the counts")
    wanted = parser.parse_args()
    found, tally = try_all()
    for outcome in found:
        print(f"{outcome.name:45} {outcome.kind:15} {outcome.detail[:110]}")
    files = {outcome.name: {"kind": outcome.kind, "said": outcome.detail} for outcome in found}
    if wanted.out:
        table = {**tally.to_json(), "files": files}
        write_bytes_atomic(wanted.out, (json.dumps(table, indent=2) + "\n").encode())
    print(f"{tally.tried} files, {tally.kinds[REFUSED]} refused, {tally.failed} failed")
    sys.exit(tally.kinds[REFUSED] != tally.tried)


if __name__ == "__main__":
    main()
