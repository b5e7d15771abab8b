"""The gallery of a set of tiles: in an order of interest, filtered by quirk, page by page."""

import base64
from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
import panel as pn
from numpy.typing import NDArray
from PIL import Image

from diapir.inference.postprocess import make_masks
from diapir.io.images import encode_png
from diapir.serve.viewer.bridge import Thumbnails
from diapir.serve.viewer.colors import SALT, as_rgb
from diapir.serve.viewer.controls import WIDTH
from diapir.serve.viewer.section import SectionView
from diapir.serve.viewer.state import SORTS
from diapir.serve.viewer.tiles import TileSource, arrange, measure, needs_masks, unsortable

PAGE_TILES = 40
"""Thumbnails on a page."""


class Gallery:
    """The thumbnails of tiles, and the widgets that order them.

    Args:
        view: Whose source is a set of tiles where there is a gallery.
        safely: Runs an action and shows what goes wrong.
        predict: Called to predict all tiles.
    """

    def __init__(
        self,
        view: SectionView,
        safely: Callable[[Callable[[], Any]], None],
        predict: Callable[[], Any],
    ) -> None:
        self._view = view
        self._safely = safely
        state = view.state
        self.thumbnails = Thumbnails(self._enlarge, sizing_mode="stretch_width")
        self.page = pn.widgets.IntInput(label="Page", value=1, start=1, width=76)
        self.pages = pn.pane.HTML("", margin=(26, 5, 0, 0))
        self.predict = pn.widgets.Button(label="Predict all tiles", width=WIDTH)
        self.predict.on_click(predict)
        self.quirk = pn.widgets.Select(label="Only with", options={"any": ""}, width=WIDTH)
        self.quirk.param.watch(self._choose_quirk, "value")
        self.controls = pn.Column(
            pn.widgets.Select.from_param(
                state.param.sort, label="Sort by", options=list(SORTS), width=WIDTH
            ),
            pn.widgets.Checkbox.from_param(state.param.falling, label="Largest first", width=WIDTH),
            self.quirk,
            pn.Row(self.page, self.pages, margin=0),
            self.predict,
            margin=0,
        )
        self.body = pn.Column(
            self.thumbnails, sizing_mode="stretch_both", scroll="y-auto", margin=(6, 10)
        )
        self.order: NDArray[np.intp] = np.zeros(0, np.intp)
        self._masks: NDArray[np.bool_] | None = None  # of all tiles, where the order needs them
        self._measured: NDArray[np.float64] | None = None
        self.page.param.watch(lambda _: self._safely(self.draw), "value")
        state.param.watch(lambda _: self._safely(self.rearrange), ["sort", "falling", "quirk"])

    def follow(self) -> None:
        """Offer the quirks of the tiles that are shown, and draw them."""
        source = self._view.source
        if not isinstance(source, TileSource):
            return
        options = {"any": ""}
        options |= {f"{k} ({int(v.sum())})": k for k, v in source.quirks.items() if v.any()}
        if self._view.state.quirk not in options.values():
            self._view.state.quirk = ""
        self.quirk.param.update(options=options, value=self._view.state.quirk)
        self.predict.visible = bool(self._view.library.models.names)
        self.rearrange()

    def rearrange(self) -> None:
        """Sort and filter anew.

        Raises:
            DataError: The tiles cannot be sorted this way; they stay in the order of names.
        """
        source, state = self._view.source, self._view.state
        if not isinstance(source, TileSource):
            return
        self._masks = None
        if needs_masks(state.sort, source.tiles):
            self._masks = self._make_masks(source, slice(None))
        self._measured = measure(state.sort, source, state.salt, self._masks)
        self.order = arrange(
            source.tiles.ids, self._measured, source.quirks.get(state.quirk), falling=state.falling
        )
        last = max(1, -(-len(self.order) // PAGE_TILES))
        self.page.param.update(end=last, value=min(self.page.value, last))
        self.pages.object = f"of {last}, {len(self.order):,} tiles"
        self.draw()
        problem = unsortable(state.sort, self._measured)
        if problem is not None:
            raise problem

    def draw(self) -> None:
        """Draw the thumbnails of the page."""
        source = self._view.source
        if not isinstance(source, TileSource):
            return
        start = (self.page.value - 1) * PAGE_TILES
        shown = self.order[start : start + PAGE_TILES]
        masks = self._make_masks(source, shown) if self._masks is None else self._masks[shown]
        self.thumbnails.items = [
            self._item(source, int(place), None if masks is None else masks[row])
            for row, place in enumerate(shown)
        ]

    def neighbour(self, index: int, count: int) -> int:
        """Return the tile some steps further in the order of the gallery; stops at the ends."""
        places = np.flatnonzero(self.order == index)
        if not len(places):
            return int(self.order[0]) if len(self.order) else index
        return int(self.order[int(np.clip(places[0] + count, 0, len(self.order) - 1))])

    def _make_masks(
        self, source: TileSource, which: slice | NDArray[np.intp]
    ) -> NDArray[np.bool_] | None:
        """Return what is taken as salt in some tiles; None where nothing was predicted."""
        state = self._view.state
        probs = source.probs.get(state.salt, {}).get("probability")
        if probs is None:
            return None
        rule = self._view.library.models.rule(state.salt)
        return make_masks(probs[which], state.threshold, rule)

    def _item(
        self, source: TileSource, place: int, salt: NDArray[np.bool_] | None
    ) -> dict[str, str]:
        tiles = source.tiles
        if salt is None and tiles.masks is not None:
            salt = tiles.masks[place] > 0
        picture = thumbnail(tiles.images[place], salt)
        id_ = tiles.ids[place]
        value = self._measured
        text = id_ if value is None else f"{value[place]:.3g}  {id_}"
        quirks = [name for name, which in source.quirks.items() if which[place]]
        title = f"{source.title('tile', place)}{': ' if quirks else ''}{', '.join(quirks)}"
        return {"id": id_, "picture": picture, "text": text, "title": title}

    def _enlarge(self, id_: str) -> None:
        source = self._view.source
        found = source.find(id_) if isinstance(source, TileSource) else None
        if found is not None:
            self._view.state.param.update(number=float(found), view="section")

    def _choose_quirk(self, event: Any) -> None:
        if event.new is not None:
            self._view.state.quirk = event.new


def thumbnail(image: NDArray[np.uint8], salt: NDArray[np.bool_] | None) -> str:
    """Return a tile as a data address, with the edge of its salt in colour.

    Args:
        image: (H, W).
        salt: (H, W); None: unknown.
    """
    if salt is None or not salt.any():
        data = encode_png(np.ascontiguousarray(image))
    else:
        padded = np.pad(salt, 1, mode="edge")
        inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
        colored = np.repeat(image[..., None], 3, axis=-1).astype(np.float32)
        color = np.array(as_rgb(SALT), np.float32)
        colored[salt] = 0.75 * colored[salt] + 0.25 * color
        colored[salt & ~inner] = color
        stream = BytesIO()
        Image.fromarray(colored.astype(np.uint8)).save(stream, "PNG")
        data = stream.getvalue()
    return "data:image/png;base64," + base64.b64encode(data).decode("ascii")
