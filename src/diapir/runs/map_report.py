"""The report of a map: one page to look at first, and to attach to a project."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from diapir.inference.look import Likeness, compare
from diapir.io.volume import reading_warnings
from diapir.models.modelcard import ModelCard
from diapir.models.pixels import PixelStatistics
from diapir.report.figures_survey import (
    amplitude_histogram,
    horizon_map,
    quantity,
    section,
    with_unit,
)
from diapir.report.html import (
    Card,
    Picture,
    ReportContent,
    Section,
    Table,
    keep_picture,
    write_report,
)
from diapir.runs.map_result import MapResult
from diapir.runs.products import AsVolume
from diapir.runs.provenance import provenance

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

_SECTIONS = 3


def write_map_report(
    result: MapResult,
    survey: "xr.Dataset",
    stated: dict[str, Any],
    cards: Sequence[ModelCard],
    likeness: Likeness,
    origin: dict[str, Any],
) -> None:
    """Write `report.html` and `figures/` of a map.

    Args:
        result: What was made.
        survey: Its dataset.
        stated: Settings, as in the store.
        cards: Of the models.
        likeness: To the training data.
        origin: What made the map, for programs.
    """
    content = ReportContent(
        title=f"Salt in {Path(str(survey.attrs.get('source', 'the survey'))).name}",
        subtitle=" x ".join(f"{n:,}" for n in survey["amplitude"].shape)
        + f" ({', '.join(map(str, survey['amplitude'].dims))})",
        cards=_cards(result),
        sections=[
            *_warnings("Read in doubt", reading_warnings(survey)),
            *_warnings("Out of domain", likeness.warnings),
            _bodies_section(result),
            _horizon_section(result),
            _sections_section(result, survey),
            _amplitude_section(result, likeness),
            _files_section(result),
        ],
        provenance=_provenance(result, survey, stated, cards),
        origin=origin,
    )
    write_report(result.out / "report.html", content)


def nothing_kept(result: MapResult) -> tuple[str, ...]:
    """Return why a map has no salt body, in words; nothing where it has one."""
    bodies = result.products.bodies
    if bodies.bodies:
        return ()
    if bodies.dropped:
        return (
            f"no salt body is left: all {bodies.dropped:,} were dropped as too small or too many; "
            "see --min-body and --max-bodies",
        )
    return (
        "no salt was found: the probability is nowhere above the threshold of "
        f"{result.threshold:g}; try a lower --threshold, or a model that knows such surveys",
    )


def look_at_domain(result: MapResult, survey: "xr.Dataset", trained: PixelStatistics) -> Likeness:
    """Return how like the training data the survey is, through the networks' eyes."""
    tiling = result.settings.sections.tiling
    return compare(survey, result.look, (tiling.trace_scale, tiling.sample_scale), trained)


def _warnings(title: str, texts: Sequence[str]) -> list[Section]:
    return [Section(title, text=list(texts))] if texts else []


def _cards(result: MapResult) -> list[Card]:
    bodies = result.products.bodies.bodies
    top = result.products.top.z
    unit = result.products.frame.unit
    cards = [Card("salt bodies", f"{len(bodies):,}", f"{result.products.bodies.dropped:,} dropped")]
    volumes = [body.volume_m3 for body in bodies if body.volume_m3 is not None]
    if volumes:
        cards.append(Card("salt", f"{sum(volumes) / 1e9:,.3f} km3"))
    if np.isfinite(top).any():
        low, high = np.nanmin(top), np.nanmax(top)
        deepest = f"crest; down to {with_unit(high, unit)}"
        cards.append(Card("top salt", with_unit(low, unit), deepest))
    cards.append(Card("threshold", f"{result.threshold:.2f}"))
    return cards


def _bodies_section(result: MapResult) -> Section:
    unit = result.products.frame.unit
    rows = [
        (
            body.number,
            body.samples,
            None if body.volume_m3 is None else f"{body.volume_m3:,.0f}",
            f"{body.inline[0]:.12g}-{body.inline[1]:.12g}",
            f"{body.crossline[0]:.12g}-{body.crossline[1]:.12g}",
            f"{body.z[0]:g}-{body.z[1]:g}",
            body.mean_prob,
        )
        for body in result.products.bodies.bodies
    ]
    columns = (
        "body", "samples", "volume (m3)", "inlines", "crosslines", quantity(unit),
        "mean probability",
    )  # fmt: skip
    if empty := nothing_kept(result):
        return Section("Salt bodies", text=[f"{text[0].upper()}{text[1:]}." for text in empty])
    text = [
        "Connected parts of the mask; samples that touch at a corner are connected. "
        f"{result.products.bodies.dropped:,} bodies were dropped as too small or too many."
    ]
    if rows and rows[0][2] is None:
        text.append(
            "Without coordinates, or in two-way time without a velocity, there is no volume."
        )
    return Section("Salt bodies", text=text, tables=[Table("Bodies", columns, rows, decimals=3)])


def _horizon_section(result: MapResult) -> Section:
    horizons = (result.products.top, "Top salt"), (result.products.base, "Base salt")
    if not any(np.isfinite(horizon.z).any() for horizon, _ in horizons):
        for horizon, _ in horizons:  # of an earlier map with other settings
            (result.out / "figures" / f"{horizon.name}.png").unlink(missing_ok=True)
        return Section("Horizons", text=["There is no top and no base of salt: no body is kept."])
    frame = result.products.frame
    x, y = frame.trace_xy()
    unit = frame.plane_unit
    plane = (f"X ({unit})", f"Y ({unit})") if frame.located else ("crossline", "inline")
    pictures = []
    for horizon, caption in horizons:
        figure = horizon_map(horizon.z, x, y, name=caption, unit=frame.unit, plane=plane)
        text = f"{caption} of the kept bodies: {quantity(frame.unit)}."
        pictures.append(_keep(figure, result, f"{horizon.name}.png", text))
    odd = [f"{text[0].upper()}{text[1:]}." for text in result.products.news]
    return Section("Horizons", text=odd, pictures=pictures)


def _sections_section(result: MapResult, survey: "xr.Dataset") -> Section:
    """Show lines through the middle of the largest bodies, or of the survey without any."""
    import zarr

    probs: Any = zarr.open_group(result.store, mode="r")["probability"]
    amplitude = survey["amplitude"]
    frame, pictures = result.products.frame, []
    is_line = len(probs.shape) == 2
    for name, index in _shown_lines(result, is_line):
        across = name == "crossline"
        where = (slice(None), index) if across else (index,)
        if is_line:
            values, found = np.asarray(amplitude), AsVolume(probs)[0:1][0]
        else:
            values, found = np.asarray(amplitude[where]), np.asarray(probs[where])
        own, other = (frame.crossline, frame.inline) if across else (frame.inline, frame.crossline)
        label = "the line" if is_line else f"{name} {own[index]:.12g}"
        figure = section(
            values,
            found,
            result.threshold,
            other,
            frame.sample,
            name=label[0].upper() + label[1:],
            across="trace" if is_line else ("inline" if across else "crossline"),
            unit=frame.unit,
            display=result.settings.display,
        )
        caption = f"{label[0].upper() + label[1:]}, salt in orange."
        pictures.append(_keep(figure, result, _file_name(label), caption))
    return Section("Sections", pictures=pictures)


def _file_name(label: str) -> str:
    """Return the name of the figure of a section: that of its line, as in the title.

    >>> _file_name("inline 1049"), _file_name("the line")
    ('inline-1049.png', 'the-line.png')
    """
    return f"{label.replace(' ', '-')}.png"


def _shown_lines(result: MapResult, is_line: bool) -> list[tuple[str, int]]:
    if is_line:
        return [("inline", 0)]
    lines = []
    for box in result.products.bodies.boxes[:_SECTIONS]:
        lines += [("inline", sum(box.inline) // 2), ("crossline", sum(box.crossline) // 2)]
    shape = result.products.frame.shape
    found = lines or [("inline", shape[0] // 2), ("crossline", shape[1] // 2)]
    return list(dict.fromkeys(found))


def _amplitude_section(result: MapResult, likeness: Likeness) -> Section:
    figure = amplitude_histogram(
        likeness.shares, np.asarray(likeness.trained.shares), likeness.distance
    )
    amplitudes = result.amplitudes
    clip = "The values were taken as they are."
    if amplitudes is not None:
        clip = (
            f"Amplitudes were clipped to {amplitudes.low:.6g} and {amplitudes.high:.6g} and "
            "brought to the mean and deviation of the training data."
        )
    text = [clip, f"{100 * likeness.dead:.1f} % of the looked-at samples are dead."]
    picture = _keep(figure, result, "amplitudes.png", "What the network sees, against training.")
    rows = [
        ("along samples", likeness.roughness[1], likeness.trained.roughness[1]),
        ("across traces", likeness.roughness[0], likeness.trained.roughness[0]),
    ]
    table = Table("Mean step between neighbours, in deviations", ("", "here", "training"), rows)
    return Section("Amplitudes", text=text, tables=[table], pictures=[picture])


def _files_section(result: MapResult) -> Section:
    names = [str(path.relative_to(result.out)) for path in result.files]
    return Section(
        "Files", tables=[Table("Written beside this page", ("file",), [(n,) for n in names])]
    )


def _provenance(
    result: MapResult, survey: "xr.Dataset", stated: dict[str, Any], cards: Sequence[ModelCard]
) -> list[tuple[str, str]]:
    tiling = result.settings.sections.tiling
    rows = [
        ("source", str(survey.attrs.get("source", ""))),
        ("input fingerprint", str(stated["fingerprint"])),
    ]
    for number, (digest, card) in enumerate(zip(stated["models"], cards, strict=False), 1):
        rows.append((f"model {number}: file SHA-256", digest))
        rows += [(f"model {number}: {name}", value) for name, value in provenance(card)]
    rows += [
        ("threshold", f"{result.threshold:.4f}"),
        ("clip (percentiles)", " to ".join(f"{p:g}" for p in stated["clip"])),
        ("polarity", stated["polarity"]),
        ("predicted along", ", ".join(stated["directions_used"])),
        ("window and overlap", f"{tiling.window}, {tiling.overlap} pixels"),
    ]
    took = result.prediction
    if took is not None:
        rows.append(("prediction", f"{took.seconds:.1f} s, {took.model_seconds:.1f} s in networks"))
    return rows


def _keep(figure: "Figure", result: MapResult, name: str, caption: str) -> Picture:
    return keep_picture(figure, result.out / "figures" / name, caption, dpi=110)
