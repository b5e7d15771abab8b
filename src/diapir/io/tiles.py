"""Tiles: all images and masks of a data set in memory, with their ids and depths."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from diapir.errors import DataError
from diapir.io.csv_tables import index_rows, read_depths, read_rows
from diapir.io.images import read_grey, read_mask, read_size
from diapir.io.layout import Layout, Part, find_layout
from diapir.io.rle import decode_rle
from diapir.io.sources import Source
from diapir.io.stack import ImageStack
from diapir.progress import counting


@dataclass(frozen=True, eq=False)
class Tiles:
    """Images of one size with, where known, their masks and depths.

    Args:
        ids: N different names.
        images: (N, H, W) uint8.
        masks: (N, H, W) uint8 of 0 and 1, 1 being salt; None without labels.
        z_feet: (N,) float32, depth of each tile in feet; None where unknown.
        source: Where the tiles come from, for messages.

    Raises:
        ValueError: The lengths, shapes or dtypes do not fit each other, or ids repeat.
    """

    ids: tuple[str, ...]
    images: NDArray[np.uint8]
    masks: NDArray[np.uint8] | None
    z_feet: NDArray[np.float32] | None
    source: str

    def __post_init__(self) -> None:
        n = len(self.ids)
        if len(set(self.ids)) != n:
            raise ValueError("ids repeat")
        if self.images.ndim != 3 or len(self.images) != n or self.images.dtype != np.uint8:
            raise ValueError(f"images must be ({n}, H, W) uint8, found {_describe(self.images)}")
        masks, z_feet = self.masks, self.z_feet
        if masks is not None and (masks.shape != self.images.shape or masks.dtype != np.uint8):
            raise ValueError(f"masks must be as the images, found {_describe(masks)}")
        if z_feet is not None and (z_feet.shape != (n,) or z_feet.dtype != np.float32):
            raise ValueError(f"z_feet must be ({n},) float32, found {_describe(z_feet)}")

    def __len__(self) -> int:
        return len(self.ids)

    def subset(self, index: NDArray[np.intp] | NDArray[np.bool_] | Sequence[int]) -> "Tiles":
        """Return copies of the tiles at these positions, in the order given.

        Args:
            index: (M,) positions in 0..N-1, or (N,) bool with the tiles to keep.
        """
        chosen = np.asarray(index)
        at = np.flatnonzero(chosen) if chosen.dtype == bool else chosen.astype(np.intp)
        return Tiles(
            ids=tuple(self.ids[i] for i in at),
            images=self.images[at],
            masks=None if self.masks is None else self.masks[at],
            z_feet=None if self.z_feet is None else self.z_feet[at],
            source=self.source,
        )

    def joined(self, others: "Tiles") -> "Tiles":
        """Return these tiles followed by others of the same size; depths only if both have them.

        Raises:
            DataError: The sizes differ, an id is in both, or only one of them has masks.
        """
        self.check_joins(others)
        if (self.masks is None) != (others.masks is None):
            raise DataError("only one of two sets of tiles has masks", where=others.source)
        masks, z_feet = self.masks, self.z_feet
        if masks is not None and others.masks is not None:
            masks = np.concatenate([masks, others.masks])
        if z_feet is not None:
            known = others.z_feet is not None
            z_feet = np.concatenate([z_feet, others.z_feet]) if known else None
        return Tiles(
            ids=self.ids + others.ids,
            images=np.concatenate([self.images, others.images]),
            masks=masks,
            z_feet=z_feet,
            source=f"{self.source} and {others.source}",
        )

    def check_joins(self, others: "Tiles") -> None:
        """Raise where others cannot stand beside these tiles in one set.

        Raises:
            DataError: The sizes differ, or an id is in both.
        """
        if self.images.shape[1:] != others.images.shape[1:]:
            shapes = (tiles.images.shape[1:] for tiles in (self, others))
            sizes = " and ".join(f"{height} x {width} pixels" for height, width in shapes)
            raise DataError(
                f"tiles of two sizes: {sizes}",
                where=others.source,
                mend="Bring all images to one size.",
            )
        twice = sorted(set(self.ids) & set(others.ids))
        if twice:
            raise DataError(
                f"{_count(twice, 'tile')} in both sets, such as {twice[0]}",
                where=others.source,
                mend="Give the files of one set other names.",
            )

    def select(self, ids: Iterable[str]) -> "Tiles":
        """Return copies of the tiles with these ids, in the order given.

        Raises:
            DataError: An id is not among the tiles.
        """
        wanted = list(ids)
        position = {id_: i for i, id_ in enumerate(self.ids)}
        unknown = [id_ for id_ in wanted if id_ not in position]
        if unknown:
            raise DataError(
                f"{_count(unknown, 'tile')} not in the data: {_some(unknown)}",
                where=self.source,
                mend="Give the data that these ids come from.",
            )
        return self.subset([position[id_] for id_ in wanted])

    @property
    def truth(self) -> NDArray[np.uint8]:
        """(N, H, W) uint8 of 0 and 1: the masks, for work that cannot do without.

        Raises:
            DataError: The tiles have no masks.
        """
        if self.masks is None:
            raise DataError(
                "these tiles have no masks", where=self.source, mend="Give labelled data."
            )
        return self.masks

    @property
    def coverage(self) -> NDArray[np.float32]:
        """(N,) float32: share of salt of each tile, 0..1.

        Raises:
            DataError: The tiles have no masks.
        """
        height, width = self.images.shape[1:]
        salt: NDArray[np.int64] = self.truth.sum(axis=(1, 2), dtype=np.int64)
        return np.asarray(salt / (height * width), dtype=np.float32)

    @property
    def blank(self) -> NDArray[np.bool_]:
        """(N,) bool: the image is one constant value."""
        blank: NDArray[np.bool_] = (self.images == self.images[:, :1, :1]).all(axis=(1, 2))
        return blank

    def fingerprint(self) -> str:
        """Return the SHA-256 over ids, size, pixels and masks; depths and `source` do not count."""
        digest = hashlib.sha256()
        digest.update("\n".join(self.ids).encode())
        digest.update(f"\n{self.images.shape} {self.masks is not None}\n".encode())
        digest.update(np.ascontiguousarray(self.images).data)
        if self.masks is not None:
            digest.update(np.ascontiguousarray(self.masks).data)
        return digest.hexdigest()

    def depths_fingerprint(self) -> str | None:
        """Return the SHA-256 over the depths in the order of the ids; None without depths."""
        if self.z_feet is None:
            return None
        return hashlib.sha256(np.ascontiguousarray(self.z_feet).data).hexdigest()


def read_tiles(path: Path, part: Part, *, progress: bool = False) -> Tiles:
    """Return all tiles of one part of a data set, sorted by id.

    The layouts are those of `diapir.io.layout.find_layout`. Masks come from files or, where there
    are none, from ``train.csv``; rows of tables for other tiles are passed over.

    Args:
        path: The data set.
        part: ``"train"`` with masks, or ``"test"`` without.
        progress: Show a progress bar on standard error.

    Raises:
        DataError: A file is missing, unreadable, of another size or not binary; ids repeat, or
            lack a mask or a depth; a table is malformed.
    """
    layout = find_layout(path, part)
    with layout.source:
        ids = tuple(layout.images)
        # The cheap checks come first: no minute of decoding before a complaint about a table.
        z_feet = _match_depths(ids, layout.depths)
        table = None
        if part == "train" and layout.masks is None:
            table = _match_rle_rows(ids, layout)
        elif layout.masks is not None:
            _check_pairs(layout.images, layout.masks, layout.source)
        with counting(
            len(ids) + len(layout.masks or ()), f"reading {part}", shown=progress
        ) as advance:
            images = _read_stack(layout.source, layout.images, read_grey, advance)
            masks = None
            if layout.masks is not None:
                like = (images.shape[1:], next(iter(layout.images.values())))
                masks = _read_stack(layout.source, layout.masks, read_mask, advance, like)
        if table is not None:
            masks = _decode_rows(table, images.shape[1:])
    return Tiles(ids, images, masks, z_feet, source=str(path))


class Outline(NamedTuple):
    """What is known of one part of a data set without decoding it.

    Args:
        ids: Of its tiles, sorted.
        size: Height and width of its tiles.
        tables: The folder in which tables that belong to it are looked for.
    """

    ids: tuple[str, ...]
    size: tuple[int, int]
    tables: Path


def read_outline(path: Path, part: Part) -> Outline:
    """Return the ids of one part of a data set and the size of its tiles.

    Only the header of the first image that has one is read: neither the others nor a table of
    depths need be sound.

    Args:
        path: The data set, as in `read_tiles`.
        part: As there.

    Raises:
        DataError: There are no images, or none has a header.
    """
    layout = find_layout(path, part)
    with layout.source as source:
        complaint: DataError | None = None
        for name in layout.images.values():
            try:
                size = read_size(source.read(name), source.describe(name))
                return Outline(tuple(layout.images), size, layout.tables)
            except DataError as error:
                complaint = complaint or error
    raise complaint or DataError(f"no {part} images", where=path)


def _read_stack(
    source: Source,
    files: dict[str, str],
    read: Callable[[bytes, str], NDArray[np.uint8]],
    advance: Callable[[int], None],
    like: tuple[tuple[int, ...], str] | None = None,
) -> NDArray[np.uint8]:
    with ImageStack(source, list(files.values()), read, like) as stack:
        for done in stack.counts():
            advance(done)
        return stack[:]


@dataclass(frozen=True, eq=False)
class ArrivingTiles:
    """Test tiles of which the first can be used while the last are being read.

    Args:
        ids: N different names.
        images: (N, H, W) uint8; who asks for some waits until they are in.
        z_feet: (N,) float32, depth of each tile in feet; None where unknown.
        source: Where the tiles come from, for messages.
        tables: Folder of the tables of the data set.
    """

    ids: tuple[str, ...]
    images: ImageStack
    z_feet: NDArray[np.float32] | None
    source: str
    tables: Path

    def __len__(self) -> int:
        """Return the number of tiles."""
        return len(self.ids)

    def all(self) -> Tiles:
        """Return all of them, when the last one is in.

        Raises:
            DataError: As in `read_tiles`.
        """
        return Tiles(self.ids, self.images[:], None, self.z_feet, self.source)


@contextmanager
def arriving_tiles(path: Path) -> Iterator[ArrivingTiles]:
    """Read the test tiles of a data set while the block runs, sorted by id.

    Args:
        path: The data set, as in `read_tiles`.

    Raises:
        DataError: As in `read_tiles`; of an image when it, or a later one, is asked for.
    """
    layout = find_layout(path, "test")
    ids = tuple(layout.images)
    with layout.source:
        z_feet = _match_depths(ids, layout.depths)
        with ImageStack(layout.source, list(layout.images.values()), read_grey) as images:
            yield ArrivingTiles(ids, images, z_feet, str(path), layout.tables)


def _match_depths(ids: Sequence[str], path: Path) -> NDArray[np.float32] | None:
    if not path.exists():
        return None
    depths = read_depths(path)
    without = [id_ for id_ in ids if id_ not in depths]
    if without:
        raise DataError(
            f"{_count(without, 'id')} without depth: {_some(without)}",
            where=path,
            expected="a row id,z for every tile",
            mend="Add the rows, or remove the file: depths are optional.",
        )
    return np.array([depths[id_] for id_ in ids], dtype=np.float32)


def _match_rle_rows(ids: Sequence[str], layout: Layout) -> list[tuple[str, str]]:
    """Return the run-length text and its place (file, row, id) for each id."""
    path = layout.tables / "train.csv"
    if not path.exists():
        raise DataError(
            "no masks: neither mask files nor train.csv",
            where=layout.source.path,
            expected="masks/ID.png for each images/ID.png, or train.csv with id,rle_mask",
            mend="Add the masks, or read these tiles as the test part.",
        )
    rows = index_rows(read_rows(path), path)
    without = [id_ for id_ in ids if id_ not in rows]
    if without:
        raise _missing_masks(without, path, "a row id,rle_mask for every image")
    return [(rows[id_].value, f"{path} row {rows[id_].row} (id {id_})") for id_ in ids]


def _decode_rows(table: Sequence[tuple[str, str]], size: tuple[int, ...]) -> NDArray[np.uint8]:
    height, width = size
    masks = np.empty((len(table), height, width), dtype=np.uint8)
    for mask, (text, where) in zip(masks, table, strict=True):
        mask[...] = decode_rle(text, (height, width), where)
    return masks


def _check_pairs(images: dict[str, str], masks: dict[str, str], source: Source) -> None:
    without = [id_ for id_ in images if id_ not in masks]
    place = source.describe(next(iter(masks.values())).rpartition("/")[0])
    if without:
        raise _missing_masks(without, place, "a mask of the same name for every image")
    extra = [id_ for id_ in masks if id_ not in images]
    if extra:
        raise DataError(
            f"{_count(extra, 'mask')} without image: {_some(extra)}",
            where=place,
            expected="an image of the same name for every mask",
            mend="Add the images or remove the masks; do the two folders belong together?",
        )


def _missing_masks(ids: Sequence[str], where: object, expected: str) -> DataError:
    return DataError(
        f"missing masks: {_count(ids, 'image')} without mask: {_some(ids)}",
        where=where,
        expected=expected,
        mend="Add the masks (an empty one means no salt) or remove the images.",
    )


def _describe(array: NDArray[np.generic]) -> str:
    return f"{array.shape} {array.dtype}"


def _count(items: Sequence[str], noun: str) -> str:
    return f"{len(items)} {noun}{'' if len(items) == 1 else 's'}"


def _some(ids: Sequence[str]) -> str:
    return ", ".join(ids[:3]) + (f" and {len(ids) - 3} more" if len(ids) > 3 else "")
