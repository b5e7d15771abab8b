"""Options that mean the same for `diapir map` and `diapir finetune`."""

from typing import Annotated, Any, Literal

import typer

Clip = Annotated[
    tuple[float, float], typer.Option("--clip", help="Percentiles at which amplitudes are clipped.")
]
Polarity = Annotated[
    Literal["normal", "reverse"],
    typer.Option("--polarity", help="Whether the polarity is that of the training data."),
]
Normalise = Annotated[
    bool,
    typer.Option(
        "--normalise/--no-normalise",
        help="Off for values that are grey values of 0 to 255 already; PNG always is.",
    ),
]
Window = Annotated[int, typer.Option("--window", min=32, help="Side of the windows in pixels.")]
Overlap = Annotated[int, typer.Option("--overlap", min=0, help="Of neighbouring windows.")]
SampleScale = Annotated[
    float, typer.Option("--sample-scale", help="Stretch sections so much along the samples.")
]
TraceScale = Annotated[
    float, typer.Option("--trace-scale", help="Stretch sections so much across the traces.")
]


def tiling(window: int, overlap: int, batch: int, sample_scale: float, trace_scale: float) -> Any:
    """Return the tiling of these options."""
    from diapir.inference.sections import Tiling

    return Tiling(window, overlap, batch, sample_scale, trace_scale)
