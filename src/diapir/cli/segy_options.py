"""The flags that say how a SEG-Y file is to be read, the same for every verb that reads one."""

import inspect
from typing import TYPE_CHECKING, Annotated, Any

import typer

from diapir.cli.flags import takes_flags

if TYPE_CHECKING:
    from diapir.io.segy import SegyOptions

_PANEL = "How to read SEG-Y ('diapir doctor' says which flags a file needs)"


def _flag(kind: Any, name: str, help_text: str, default: Any, **more: Any) -> inspect.Parameter:
    option = typer.Option(name, help=help_text, rich_help_panel=_PANEL, **more)
    return inspect.Parameter(
        name.removeprefix("--").replace("-", "_"),
        inspect.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=Annotated[kind, option],
    )


_BYTES = {
    "inline": ("inline number", 189),
    "crossline": ("crossline number", 193),
    "x": ("X coordinate", 181),
    "y": ("Y coordinate", 185),
    "scalar": ("coordinate scalar", 71),
    "delay": ("delay recording time, the start in ms", 109),
    "delay-scalar": ("scalar of the delay", 215),
    "number": ("trace number of a 2-D line", 21),
    "offset": ("offset", 37),
}
_FLAGS = [
    *(
        _flag(int, f"--{name}-byte", f"Byte of the {what}.", default, min=1, max=237)
        for name, (what, default) in _BYTES.items()
    ),
    _flag(str, "--byte-order", "Byte order: auto, big or little.", "auto"),
    _flag(int | None, "--format", "Sample format code, in place of the header's.", None),
    _flag(int | None, "--samples", "Samples per trace, in place of the header's.", None, min=1),
    _flag(float | None, "--interval", "Sample interval in --unit, in place of the header's.", None),
    _flag(float | None, "--start", "First sample in --unit, in place of the delay.", None),
    _flag(str, "--unit", "Unit of the samples: ms, m or ft.", "ms"),
    _flag(
        float | None,
        "--coordinate-scale",
        "Factor on X and Y, in place of the header's scalar.",
        None,
    ),
    _flag(
        int | None,
        "--text-headers",
        "Number of extended text headers, in place of the header's.",
        None,
        min=0,
    ),
    _flag(bool, "--line", "Read as a 2-D line, whatever the numbers.", False),
]


def _options(chosen: dict[str, Any]) -> "SegyOptions":
    from diapir.io.segy import SegyOptions

    chosen["sample_format"] = chosen.pop("format")
    return SegyOptions(**chosen)


takes_segy_options = takes_flags("segy", _FLAGS, _options)
"""Gives a verb with a keyword `segy` of type `SegyOptions` one flag for each of its fields."""
