"""The flags that say how a survey is brought to a model, the same for every verb that does."""

import inspect
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from diapir.cli.console import Flip
from diapir.cli.flags import takes_flags

if TYPE_CHECKING:
    from diapir.inference.sections import SectionSettings


def _flag(kind: Any, name: str, help_text: str, default: Any, **more: Any) -> inspect.Parameter:
    first, _, _ = name.partition("/")
    return inspect.Parameter(
        first.removeprefix("--").replace("-", "_"),
        inspect.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=Annotated[kind, typer.Option(name, help=help_text, **more)],
    )


_AS_SAMPLED = [
    inspect.Parameter("flip", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Flip),
    _flag(
        tuple[float, float], "--clip", "Percentiles at which amplitudes are clipped.", (1.0, 99.0)
    ),
    _flag(
        bool,
        "--normalise/--no-normalise",
        "Scale amplitudes to grey values; off if they are 0 to 255 already, as PNG always is.",
        True,
    ),
    _flag(
        Literal["normal", "reverse"],
        "--polarity",
        "Whether the polarity is that of the training data.",
        "normal",
    ),
    _flag(int, "--window", "Side of the windows that are predicted, in pixels.", 404, min=32),
    _flag(int, "--overlap", "Pixels by which neighbouring windows overlap.", 101, min=0),
]
_SCALES = [
    _flag(
        float, "--sample-scale", "Factor by which sections are stretched along the samples.", 1.0
    ),
    _flag(float, "--trace-scale", "Factor by which sections are stretched across the traces.", 1.0),
]


def _settings(chosen: dict[str, Any]) -> "SectionSettings":
    from diapir.inference.sections import SectionSettings, Tiling

    names = ("window", "overlap", "sample_scale", "trace_scale")
    tiling = Tiling(**{name: chosen.pop(name) for name in names if name in chosen})
    return SectionSettings(**chosen, tiling=tiling)


takes_survey_options = takes_flags("survey", [*_AS_SAMPLED, *_SCALES], _settings)
"""Gives a verb with a keyword `survey` of type `SectionSettings` the flags for it."""

takes_survey_options_as_sampled = takes_flags("survey", _AS_SAMPLED, _settings)
"""Likewise without those that stretch sections."""
