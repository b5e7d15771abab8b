"""One look for every figure: colours safe for colour blindness, empty canvases, quiet axes."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

# Okabe and Ito's palette (2008, "Color Universal Design"), with a darker blue for `MISSED`: of its
# triples, light blue, dark blue and vermillion stay furthest apart from each other and from the
# greys of an image for all three kinds of colour blindness. Blue is salt in the truth, light where
# it was found and dark where it was missed; vermillion is salt that is not there.
AGREED = "#56B4E9"
MISSED = "#004488"
FALSE = "#D55E00"
OUTLINE = "#E69F00"
MAIN = "#0072B2"
ACCENT = "#D55E00"
SERIES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")
INK = "#1F2933"
QUIET = "#5B6670"
GRID = "#E3E7EB"

FONT = 9.0
SMALL = 7.5


def new_figure(width: float, height: float) -> Figure:
    """Return an empty white figure on its own Agg canvas, outside pyplot's global state.

    Args:
        width: In inches.
        height: In inches.
    """
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def quiet_axes(ax: Axes, *, xlabel: str = "", ylabel: str = "", grid: str = "y") -> None:
    """Give axes the house look: no frame above and right, thin grid behind, small labels.

    Args:
        ax: The axes to change.
        xlabel: Label of the horizontal axis, with its unit.
        ylabel: Label of the vertical axis, with its unit.
        grid: ``"x"``, ``"y"``, ``"both"`` or ``""`` for none.
    """
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        ax.spines[side].set_color(QUIET)
    ax.tick_params(colors=QUIET, labelcolor=INK, labelsize=SMALL + 0.5, length=3)
    ax.set_axisbelow(True)
    if grid:
        ax.grid(visible=True, axis=grid, color=GRID, linewidth=0.8)  # type: ignore[arg-type]
    ax.set_xlabel(xlabel, fontsize=FONT, color=INK)
    ax.set_ylabel(ylabel, fontsize=FONT, color=INK)


def title(ax: Axes, text: str) -> None:
    """Write a panel's title, left-aligned above its axes."""
    ax.set_title(text, loc="left", fontsize=FONT + 1, fontweight="bold", color=INK)


def legend(owner: Axes | Figure, handles: Sequence[Any], **options: Any) -> None:
    """Add a frameless legend to axes or to a whole figure."""
    owner.legend(handles=list(handles), frameon=False, fontsize=FONT, labelcolor=INK, **options)


def line_handle(color: str, label: str, **options: Any) -> Line2D:
    """Return a legend entry drawn as a line."""
    return Line2D([], [], color=color, label=label, **options)
