"""The process of one job: reads what to do from standard input, tells how far it is, maps.

    python -m diapir.serve.job_process SERVICE < spec.json

SERVICE is the number of the process that asks for it. Every line on standard output is a JSON
table: `done` and `total` blocks, at the end `files` and `news`, or a `problem`. It can be killed at
any moment.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any, TextIO

from diapir.errors import DiapirError
from diapir.inference.schedule import Workers
from diapir.inference.sections import SectionSettings, Tiling
from diapir.runs.machine import when_orphaned
from diapir.runs.map import map_survey
from diapir.runs.map_result import MapSettings

_NICENESS = 10  # sections that somebody waits for come first


def main(service: int | None = None) -> None:
    """Do the job that standard input describes.

    Args:
        service: The process with which this one is to end.
    """
    told = _own_output()
    if service is not None:  # it is to find the map free when it is back
        when_orphaned(service, lambda: os._exit(1))
    spec = json.load(sys.stdin)
    os.nice(max(0, _NICENESS - os.nice(0)))
    try:
        _tell(told, do_job(spec, lambda done, total: _tell(told, {"done": done, "total": total})))
    except DiapirError as error:
        texts = ("what", "where", "expected", "mend")
        _tell(told, {"problem": {name: getattr(error, name) for name in texts}})
    except BrokenPipeError:  # the service is gone, and will start this job again
        sys.exit(1)


def do_job(spec: dict[str, Any], tell: Any) -> dict[str, Any]:
    """Map a survey and return the names of its files and what the user should know.

    Args:
        spec: `source`, `out`, `model`, `request` (a `jobs.JobRequest`), `folders` (that may be
            read), `workers`, `device` and `flip`.
        tell: As in `map_survey`.

    Raises:
        DiapirError: As in `map_survey`.
    """
    out = Path(spec["out"])
    result = map_survey(
        Path(spec["source"]),
        out,
        [Path(spec["model"])],
        settings_of(spec["request"], spec["flip"]),
        workers=Workers(spec["workers"]),
        options=spec["request"]["segy"],
        device=spec["device"],
        name=spec["request"]["survey"],
        segy_folders=[Path(folder) for folder in spec["folders"]],
        progress=False,
        tell=tell,
    )
    files = [str(path.relative_to(out)) for path in result.files if path.is_file()]
    return {"files": files, "news": list(result.news)}


def settings_of(request: dict[str, Any], flip: bool | None) -> MapSettings:
    """Return what a request asks of the map.

    Args:
        request: As in `do_job`.
        flip: Of the service, for requests that do not say it.
    """
    names = ("window", "overlap", "sample_scale", "trace_scale")
    sections = SectionSettings(
        flip=flip if request["flip"] is None else request["flip"],
        clip=(request["clip"][0], request["clip"][1]),
        normalise=request["normalise"],
        polarity=request["polarity"],
        tiling=Tiling(**{name: request[name] for name in names}),
    )
    return MapSettings(
        sections,
        threshold=request["threshold"],
        directions=request["directions"],
        min_samples=request["min_body"],
        max_bodies=request["max_bodies"],
        velocity_m_s=request["velocity"],
        display=request["display"],
    )


def _own_output() -> TextIO:
    """Return standard output, which from now on is out of reach for whatever else prints."""
    own = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return own


def _tell(told: TextIO, table: dict[str, Any]) -> None:
    told.write(json.dumps(table) + "\n")
    told.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]))
