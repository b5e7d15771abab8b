"""What a page shows, as plain settings: those of its widgets, and of the link that reopens it."""

import json
from typing import Any
from urllib.parse import parse_qsl, urlencode

import param

LAYERS: dict[str, str] = {
    "Fill": "fill",
    "Outline": "outline",
    "Probability": "heat",
    "Disagreement": "doubt",
    "Truth": "truth",
    "Corrections": "labels",
}
"""The layers over a section by their names on the page, in the order of drawing."""

DISPLAYS = {"Grey": "gray", "Grey, turned": "gray_r", "Seismic": "seismic", "Petrel-like": "petrel"}

SORTS = ("name", "score", "uncertainty", "coverage", "depth")

LINKED = (
    "data", "direction", "number", "display", "clip", "reverse", "layers", "threshold", "opacity",
    "salt", "view", "sort", "falling", "quirk",
)  # fmt: skip
"""What a link holds."""


class ViewState(param.Parameterized):  # type: ignore[misc]
    """The settings of a page; unknown values of a link are refused one by one."""

    data = param.String("", doc="Name of what is looked at.")
    direction = param.String("", doc="inline, crossline, slice, line or tile.")
    number = param.Number(0.0, doc="Of the section, as the survey counts.")
    view = param.Selector(default="section", objects=["section", "gallery"])
    display = param.Selector(default="gray", objects=list(DISPLAYS.values()))
    clip = param.Number(99.0, bounds=(90.0, 100.0), doc="Upper percentile of the stretch.")
    reverse = param.Boolean(False, doc="Turn the polarity over.")
    layers = param.ListSelector(
        default=["fill", "outline", "labels"], objects=list(LAYERS.values())
    )
    threshold = param.Number(0.5, bounds=(0.0, 1.0))
    opacity = param.Number(0.35, bounds=(0.0, 1.0))
    salt = param.String("", doc="Where the salt comes from: 'map', a model's name, or 'all'.")
    sort = param.Selector(default="name", objects=list(SORTS))
    falling = param.Boolean(False, doc="Largest first.")
    quirk = param.String("", doc="Only tiles with this quirk.")

    def take(self, wanted: dict[str, object]) -> list[str]:
        """Set what a link says; return the names of the values that cannot be used."""
        refused = []
        for name, value in wanted.items():
            try:
                self.param.update(**{name: value})
            except (ValueError, TypeError):
                refused.append(name)
        return refused

    def query(self, *, dark: bool) -> str:
        """Return what follows the address of a page that shows the same; defaults are left out."""
        theme = {"theme": "dark" if dark else "default"}
        told = {
            name: _written(value)
            for name in LINKED
            if (value := getattr(self, name)) != self.param[name].default
            # else the model's own would be taken
            or (name == "threshold" and self.salt)
            # else the middle of what is shown
            or (name == "number" and self.direction)
        }
        return "?" + urlencode({**told, **theme})


def parse_query(query: str) -> dict[str, Any]:
    """Return the settings that follow the '?' of an address; what is no JSON is text.

    >>> parse_query("?number=12.5&layers=%5B%22fill%22%5D&theme=dark")
    {'number': 12.5, 'layers': ['fill'], 'theme': 'dark'}
    """
    found: dict[str, Any] = {}
    for name, text in parse_qsl(query.removeprefix("?")):
        # names of data and tiles may look like numbers
        if name in _TEXTS:
            found[name] = text
            continue
        try:
            found[name] = json.loads(text, parse_constant=_refused)
        except ValueError:
            found[name] = text
    return found


def _refused(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON, though Python reads it")


def _written(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return value if isinstance(value, str) else json.dumps(value)


_TEXTS = frozenset(name for name in LINKED if isinstance(ViewState.param[name], param.String))
