"""`diapir export`: a model for other programs."""

from pathlib import Path
from typing import Annotated

import typer

from diapir.cli.console import Flip, Json, Models, Threshold, print_json, require_libraries
from diapir.errors import OptionError


def export(
    models: Models = None,
    *,
    format_: Annotated[str, typer.Option("--format", help="Format: onnx or openvino.")] = "onnx",
    out: Annotated[
        Path | None, typer.Option("--out", help="File to write; default: salt.onnx or salt.xml.")
    ] = None,
    flip: Flip = None,
    threshold: Threshold = None,
    as_json: Json = False,
) -> None:
    """Write a model for ONNX Runtime or OpenVINO, with everything from pixels to probabilities.

    Several model files become one. The file is checked against the model before it is kept.
    """
    libraries = {"onnx": ("onnx", "onnxruntime"), "openvino": ("openvino",)}
    if format_ not in libraries:
        raise OptionError(
            f"there is no format {format_!r}",
            "format",
            expected=" or ".join(libraries),
            mend="Give one of these, or leave it out for onnx.",
        )
    require_libraries(libraries[format_], "export")

    from diapir.export.onnx import AGREEMENT, FORMATS, export_model, origins_of
    from diapir.inference.predict import PredictOptions, load_predictor

    options = PredictOptions(flip, threshold, device="cpu")
    predictor, _ = load_predictor(models or [], options)
    path = out or Path("salt").with_suffix(FORMATS[format_])
    apart = export_model(predictor, origins_of(models or []), path, format_=format_)
    if as_json:
        print_json({"file": str(path), "format": format_, "difference": apart})
        return
    typer.echo(
        f"{path}: differs from the model by at most {apart:.1e} in probability "
        f"({AGREEMENT:.0e} allowed)"
    )
