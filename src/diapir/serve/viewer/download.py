"""What can be taken away from a page: pictures, masks, and the link that reopens it."""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import panel as pn
from numpy.typing import NDArray

from diapir.errors import DataError
from diapir.export.segy_mask import find_segy, write_salt_segy
from diapir.io.images import encode_mask_png
from diapir.io.segy_write import write_segy
from diapir.io.volume import Geometry, segy_facts
from diapir.serve.viewer.bridge import COPY_LINK, SAVE_PICTURE
from diapir.serve.viewer.controls import WIDTH
from diapir.serve.viewer.section import MAP, SectionView
from diapir.serve.viewer.sources import SurveySource

_MOST_BYTES = 256 << 20


def section_geometry(source: SurveySource, direction: str, index: int) -> Geometry:
    """Return the geometry of one line of a volume, or of a 2-D line itself.

    Raises:
        DataError: A slice, which has no traces of its own.
    """
    whole = source.geometry
    if direction == "line":
        return whole
    if direction == "slice":
        raise DataError(
            "a slice cannot be written as SEG-Y, which holds traces",
            mend="Take its PNG, or go to an inline or a crossline.",
        )
    axis = 0 if direction == "inline" else 1
    part = [slice(None), slice(None)]
    part[axis] = slice(index, index + 1)
    box = tuple(part)
    names = list(whole.axes)
    return Geometry(
        axes={name: whole.axes[name][box[place]] for place, name in enumerate(names)},
        sample=whole.sample,
        unit=whole.unit,
        trace_mask=whole.trace_mask[box],
        cdp_x=None if whole.cdp_x is None else whole.cdp_x[box],
        cdp_y=None if whole.cdp_y is None else whole.cdp_y[box],
        measurement=whole.measurement or segy_facts(source.volume).get("measurement", ""),
    )


def section_segy(
    mask: NDArray[np.bool_], source: SurveySource, direction: str, index: int
) -> bytes:
    """Return the mask (T, S) of a section as a SEG-Y file of 0 and 1, one byte a sample.

    Raises:
        DataError: A slice, or axes that do not fit into SEG-Y.
    """
    geometry = section_geometry(source, direction, index)
    values = mask.reshape(geometry.shape)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "mask.sgy"
        write_segy(
            path,
            lambda cells: values[tuple(cells.T)],
            geometry,
            code=8,
            text=["SALT MASK: 1 IS SALT", f"{source.name.upper()[:40]} {direction.upper()}"],
        )
        return path.read_bytes()


class _Thresholded:
    """A probability volume as a mask, threshold by threshold, box by box."""

    def __init__(self, probs: Any, threshold: float) -> None:
        self._probs, self._threshold = probs, threshold
        self.shape, self.dtype = tuple(probs.shape), np.dtype(np.uint8)

    def __getitem__(self, key: Any) -> NDArray[np.uint8]:
        return np.asarray(np.asarray(self._probs[key]) > self._threshold, np.uint8)


def survey_segy(source: SurveySource, probs: Any, threshold: float) -> bytes:
    """Return the mask of a whole survey as a copy of its SEG-Y file with other samples.

    Raises:
        DataError: The survey does not come from SEG-Y, its file is gone, or is too large to pass
            through the memory of a browser.
    """
    facts = source.volume.attrs.get("segy")
    if facts is None:
        raise DataError(
            "this survey does not come from a SEG-Y file",
            mend="Take the mask of a section, which is written as a new file.",
        )
    fingerprint = source.volume.attrs["fingerprint"]
    size = find_segy(facts, fingerprint)[0].stat().st_size
    if size > _MOST_BYTES:
        raise DataError(
            f"the mask would be a file of {size >> 20:,} MB",
            expected=f"at most {_MOST_BYTES >> 20:,} MB through the browser",
            mend="Take mask.sgy of the map's folder; 'diapir map' with --threshold makes it anew.",
        )
    with TemporaryDirectory() as folder:
        (path,) = write_salt_segy(
            facts,
            fingerprint,
            {"mask": _Thresholded(probs, threshold)},
            Path(folder),
        )
        return path.read_bytes()


class DownloadControls:
    """Buttons that save what is shown.

    Args:
        view: The section.
        safely: Runs an action and shows what goes wrong.
    """

    def __init__(self, view: SectionView, safely: Callable[[Callable[[], Any]], None]) -> None:
        self._view = view
        self._safely = safely
        self._name = pn.widgets.StaticText(value="section", visible=False)
        picture = pn.widgets.Button(label="View as PNG", width=WIDTH)
        picture.jscallback(args={"plot": view.figure.plot, "name": self._name}, clicks=SAVE_PICTURE)
        self.png = self._file("Mask as PNG", self._mask_png)
        self.segy = self._file("Mask of this section as SEG-Y", self._section_segy)
        self.whole = self._file("Mask of the survey as SEG-Y", self._survey_segy)
        link = pn.widgets.Button(label="Copy the link to this view", width=WIDTH)
        link.jscallback(args={"button": link}, clicks=COPY_LINK)
        self.column = pn.Column(
            picture, self.png, self.segy, self.whole, link, self._name, margin=0
        )

    def follow(self) -> None:
        """Offer what the section has, under names of its own."""
        view = self._view
        source, number = view.shown.source, view.shown.number
        stem = f"{source.name}-{view.shown.key or f'slice_{number:g}'}".replace("/", "-")
        self._name.value = stem
        self.png.filename = f"{stem}-mask.png"
        self.segy.filename = f"{stem}-mask.sgy"
        self.whole.filename = f"{source.name}-mask.sgy"
        survey = isinstance(source, SurveySource)
        self.segy.visible = survey
        self.whole.visible = survey and "probability" in source.known

    def _file(self, label: str, make: Callable[[], bytes]) -> pn.widgets.FileDownload:
        def callback() -> BytesIO | None:
            made: list[bytes] = []
            self._safely(lambda: made.append(make()))
            return BytesIO(made[0]) if made else None

        return pn.widgets.FileDownload(label=label, callback=callback, filename="mask", width=WIDTH)

    def _mask(self) -> NDArray[np.bool_]:
        salt = self._view.salt()
        if salt is None:
            raise DataError("no salt is known here", mend="Press P to predict the section first.")
        return np.asarray(salt > float(self._view.state.threshold))

    def _mask_png(self) -> bytes:
        return encode_mask_png(self._mask().T)

    def _section_segy(self) -> bytes:
        source = self._view.shown.source
        if not isinstance(source, SurveySource):
            raise DataError("tiles have no traces", mend="Take the PNG.")
        return section_segy(
            self._mask(), source, self._view.shown.direction, self._view.shown.index
        )

    def _survey_segy(self) -> bytes:
        source = self._view.shown.source
        if not isinstance(source, SurveySource) or self._view.state.salt != MAP:
            raise DataError(
                "the salt of the whole survey is not known",
                mend="Choose 'Map' as where the salt comes from, or run 'diapir map'.",
            )
        return survey_segy(source, source.array("probability"), self._view.state.threshold)
