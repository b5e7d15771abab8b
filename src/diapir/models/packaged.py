"""The packaged model, for whoever names none."""

from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from diapir.errors import ModelFileError


def packaged_model() -> Path:
    """Return the path of the packaged model.

    Raises:
        ModelFileError: This installation has none.
    """
    path = Path(str(resources.files("diapir") / "weights" / "salt.safetensors"))
    if not path.is_file():
        raise ModelFileError(
            "no model is named, and this installation carries none",
            where=path,
            expected="the packaged model in this place, or a model file on the command line",
            mend="Name a model file, or train one with 'diapir train'.",
        )
    return path


def models_or_packaged(models: Sequence[Path]) -> list[Path]:
    """Return these model files, or the packaged one where there are none.

    Raises:
        ModelFileError: There are none, and this installation has none either.
    """
    return list(models) or [packaged_model()]
