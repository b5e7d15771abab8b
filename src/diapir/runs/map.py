"""Maps salt through a survey: predict, extract, write, report, in one folder."""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from diapir.errors import DataError
from diapir.export.segy_mask import find_segy, segy_files, write_salt_segy
from diapir.inference.journal import Journal, settings_key
from diapir.inference.look import Look, trained_pixels
from diapir.inference.predict import choose_device
from diapir.inference.schedule import Workers
from diapir.inference.sections import SectionModel, choose_look, load_section_model
from diapir.inference.volume import (
    STORE,
    Job,
    Plan,
    Prediction,
    predict_volume,
    store_attributes,
)
from diapir.io.atomic import remove_leftovers
from diapir.io.digests import file_sha256
from diapir.io.opening import is_picture, open_volume
from diapir.io.volume import reading_warnings
from diapir.models.modelcard import ModelCard, read_card
from diapir.models.packaged import models_or_packaged
from diapir.progress import counting
from diapir.runs.folder import RunFolder, write_json
from diapir.runs.machine import command_line, describe_machine
from diapir.runs.map_report import look_at_domain, nothing_kept, write_map_report
from diapir.runs.map_result import MapResult, MapSettings
from diapir.runs.products import Products, write_products
from diapir.runs.provenance import made_with

if TYPE_CHECKING:
    import xarray as xr

_OF_PRODUCTS = ("min_samples", "max_bodies", "velocity_m_s", "display", "threshold")
_ALGORITHM = 3
"""Raised when the same settings give other bytes than before: old journals then start afresh."""


def map_survey(
    source: Path,
    out: Path,
    models: Sequence[Path],
    settings: MapSettings = MapSettings(),  # noqa: B008  # frozen
    *,
    workers: Workers = Workers(),  # noqa: B008  # frozen
    options: Mapping[str, Any] | None = None,
    device: str = "auto",
    segy: bool | None = None,
    segy_folders: Sequence[Path] | None = None,
    name: str | None = None,
    progress: bool = True,
    tell: Callable[[int, int], None] | None = None,
    say: Callable[[str], object] = lambda _: None,
    load_model: Callable[[], SectionModel] | None = None,
) -> MapResult:
    """Predict salt in a survey and write every product into a folder.

    Killed at any moment, the same call goes on where it was. With other models, input or settings
    it starts afresh and says so, in `news` and before; what was unfinished is kept until then.

    Args:
        source: SEG-Y, Zarr, MDIO, or a PNG or NumPy section.
        out: Folder; takes `salt.zarr`, `horizons/`, `bodies.*`, SEG-Y files, `report.html` and
            `map.json`.
        models: Model files; their probabilities are averaged.
        settings: What the result depends on.
        workers: Who computes; the result does not depend on it.
        options: For SEG-Y, see `open_volume`.
        device: 'auto', 'cpu' or 'cuda'.
        segy: Also write probability and mask as SEG-Y; None: where the file that the survey was
            read from is there and unchanged, and otherwise say in `news` that it is not.
        segy_folders: Where that file may lie; None: anywhere.
        name: What `map.json`, the report and errors call the survey in place of its path, for
            readers elsewhere; the command, which may hold other paths, and what was opened are then
            left out.
        progress: Show progress bars.
        tell: Called with the blocks that are done and all blocks, whenever some are done.
        say: Called with each text of `news` that is known before hours of predicting begin.
        load_model: Takes the place of the model files, for tests and for networks of one's own;
            `models` may then be empty and `settings.threshold` must be given.

    Raises:
        DiapirError: The survey or a model cannot be used, or a file cannot be written.
    """
    options = dict(options or {})
    survey = open_volume(source, **options)
    if name is not None:
        survey = survey.assign_attrs(source=name)
    segy, unwritten = _choose_segy(survey, segy, segy_folders)
    models = models if models or load_model else models_or_packaged(models)
    cards = [read_card(path) for path in models]
    threshold = _threshold(settings, cards, source)
    amplitudes, look = choose_look(survey, settings.sections, cards, is_picture=is_picture(source))
    plan = Plan.of(survey["amplitude"].shape, settings.directions, settings.lines)
    stated = _stated(survey, models, settings, threshold, look, plan, load_model, device)
    folder = RunFolder(out)
    folder.make_plain()
    with folder.locked():
        remove_leftovers(out)
        journal, found = _open_journal(out, stated)
        news = (*found, *unwritten)
        for text in (*news, *reading_warnings(survey)):
            say(text)
        prediction = None
        if not _is_finished(out, settings_key(stated)):
            job = Job(
                key=settings_key(stated),
                open_source=partial(open_volume, source.resolve(), **options),
                load_model=load_model or _loader(models, settings, device, survey),
                look=look,
                tiling=settings.sections.tiling,
                threshold=threshold,
                journal=journal,
                last=plan.directions[-1],
                scratch=len(plan.directions) > 1,
            )
            prediction = _predict(job, plan, survey, workers, stated, progress, tell)
            journal.remove_others()
            _publish(prediction.store, out)
        journal.remove()
        products, files = _write_products(survey, settings, threshold, out, segy, progress)
        result = MapResult(
            out=out,
            store=out / STORE,
            threshold=threshold,
            amplitudes=amplitudes,
            look=look,
            prediction=prediction,
            products=products,
            settings=settings,
            files=files,
            news=news,
        )
        opened = {"path": str(source.resolve()), "options": options} if name is None else None
        return _report(result, survey, stated, models, cards, opened)


def _choose_segy(
    survey: "xr.Dataset", wanted: bool | None, folders: Sequence[Path] | None
) -> tuple[bool, tuple[str, ...]]:
    """Return whether SEG-Y is written, known before hours of predicting, and why not, in words.

    Raises:
        DataError: It is asked for and cannot be written.
    """
    facts = survey.attrs.get("segy")
    if wanted is False or (wanted is None and facts is None):
        return False, ()
    try:
        find_segy(facts, survey.attrs.get("fingerprint", ""), folders)
    except DataError as error:
        if wanted:
            raise
        return False, (f"probability and mask are not written as SEG-Y: {error.what}",)
    return True, ()


def _threshold(settings: MapSettings, cards: Sequence[ModelCard], source: Path) -> float:
    if settings.threshold is not None:
        return settings.threshold
    if not cards:
        raise DataError("no model is given", where=source, mend="Give --model MODEL.safetensors.")
    return float(np.mean([card.threshold for card in cards]))


def _stated(
    survey: "xr.Dataset",
    models: Sequence[Path],
    settings: MapSettings,
    threshold: float,
    look: Look,
    plan: Plan,
    load_model: Callable[[], SectionModel] | None,
    device: str,
) -> dict[str, Any]:
    """Return all that the bytes of the result depend on, as JSON; not what products depend on.

    It stays flat and as it ever was: what was begun with another table starts afresh.
    """
    own = asdict(settings)
    own |= own.pop("sections")
    for name in _OF_PRODUCTS:
        del own[name]
    return {
        "algorithm": _ALGORITHM,
        "models": [file_sha256(path) for path in models],
        "stand_in": None if load_model is None else _name_of(load_model),
        "fingerprint": str(survey.attrs.get("fingerprint", "")),
        "device": choose_device(device),
        "threshold": threshold,
        "look": asdict(look),
        "shape": list(plan.shape),
        "sample": [*_first_and_last(survey["sample"]), str(survey["sample"].attrs.get("units"))],
        "directions_used": list(plan.directions),
        "lines_a_block": plan.lines,
        **json.loads(json.dumps(own)),
    }


def _first_and_last(axis: Any) -> list[float]:
    return [float(axis[0]), float(axis[-1])]


def _name_of(load_model: Callable[[], SectionModel]) -> str:
    own = getattr(load_model, "__qualname__", type(load_model).__qualname__)
    return f"{load_model.__module__}.{own}"


def _loader(
    models: Sequence[Path], settings: MapSettings, device: str, survey: "xr.Dataset"
) -> Callable[[], SectionModel]:
    tiling = settings.sections.tiling
    return partial(
        load_section_model,
        [path.resolve() for path in models],
        flip=settings.sections.flip,
        batch=tiling.batch,
        device=device,
        engine=settings.engine,
        expected=int(survey["amplitude"].size // tiling.window**2),
    )


def _open_journal(out: Path, stated: dict[str, Any]) -> tuple[Journal, tuple[str, ...]]:
    journal, news = Journal.open(out.resolve(), stated)
    if _is_finished(out, settings_key(stated)):
        news = ("the prediction is finished already: only the products are made again",)
    elif (out / STORE).exists():
        text = (
            "another model, input or other settings made the map that is here: it is replaced when "
            "this one is done"
        )
        news = (*news, text)
    return journal, news


def _is_finished(out: Path, key: str) -> bool:
    try:
        attributes = json.loads((out / STORE / "zarr.json").read_text())["attributes"]
    except (OSError, ValueError, KeyError):
        return False
    return bool(attributes.get("diapir_key") == key)


def _predict(
    job: Job,
    plan: Plan,
    survey: "xr.Dataset",
    workers: Workers,
    stated: dict[str, Any],
    progress: bool,
    tell: Callable[[int, int], None] | None,
) -> Prediction:
    total = sum(len(plan.blocks(direction)) for direction in plan.directions)
    done = 0
    job.load_model()  # a model that cannot be used is told before workers are started
    with counting(total, "predicting", shown=progress) as advance:

        def count(blocks: int) -> None:
            nonlocal done
            done += blocks
            advance(blocks)
            if tell is not None:
                tell(done, total)

        return predict_volume(
            job,
            plan,
            survey,
            workers,
            attributes=store_attributes(job.key, stated),
            advance=count,
        )


def _publish(store: Path, out: Path) -> None:
    """Move a finished store to its place, over the map that stood there, and remove its SEG-Y."""
    final = out / STORE
    if final.exists():
        old = store.with_name("replaced.zarr")
        final.replace(old)
        shutil.rmtree(old, ignore_errors=True)
    store.replace(final)
    for path in segy_files(out):
        path.unlink(missing_ok=True)


def _write_products(
    survey: "xr.Dataset",
    settings: MapSettings,
    threshold: float,
    out: Path,
    segy: bool,
    progress: bool,
) -> tuple[Products, tuple[Path, ...]]:
    """Write what is made of the store; return it, and all files of the map so far."""
    probs = _open_array(out / STORE, "probability")
    products = write_products(
        probs,
        survey,
        threshold,
        out,
        min_samples=settings.min_samples,
        max_bodies=settings.max_bodies,
        velocity_m_s=settings.velocity_m_s,
    )
    files = [out / STORE, *products.files]
    if segy:
        files += write_salt_segy(
            survey.attrs["segy"],
            survey.attrs["fingerprint"],
            {"probability": probs, "mask": _open_array(out / STORE, "mask")},
            out,
            progress=progress,
        )
    return products, tuple(files)


def _open_array(store: Path, name: str) -> Any:
    import zarr

    return zarr.open_group(store, mode="r")[name]


def _report(
    result: MapResult,
    survey: "xr.Dataset",
    stated: dict[str, Any],
    models: Sequence[Path],
    cards: Sequence[ModelCard],
    opened: dict[str, Any] | None,
) -> MapResult:
    """Write `report.html` and `map.json`; return the result with both among its files.

    Args:
        result: What was made.
        survey: Of which.
        stated: What it depends on.
        models: Model files.
        cards: Their provenance.
        opened: Path and options of the survey; None: neither they nor the command may be told.
    """
    likeness = look_at_domain(result, survey, trained_pixels(cards))
    warnings = (*reading_warnings(survey), *likeness.warnings)
    took = result.prediction
    names = [path.name for path in models]
    origin = {
        "source": str(survey.attrs.get("source", "")),
        "settings": stated,
        "threshold": result.threshold,
        "warnings": list(warnings),
        "command": None if opened is None else command_line(),
        **({} if opened is None else {"input": opened}),
        "machine": describe_machine(),
        "seconds": None if took is None else round(took.seconds, 3),
        "model_seconds": None if took is None else round(took.model_seconds, 3),
        **made_with(zip(names, cards, strict=True), stated["fingerprint"], stated["models"]),
    }
    write_map_report(result, survey, stated, cards, likeness, origin)
    write_json(
        result.out / "map.json",
        {
            **origin,
            "bodies": [asdict(body) for body in result.products.bodies.bodies],
            "bodies_dropped": result.products.bodies.dropped,
            "files": [str(path.relative_to(result.out)) for path in result.files],
        },
    )
    made = (*result.files, result.out / "report.html", result.out / "map.json")
    told = (*result.news, *warnings, *result.products.news, *nothing_kept(result))
    return replace(result, files=made, news=told)
