"""Tells of a step so small that batch norm has a single pixel to normalise by."""

from collections.abc import Iterator
from contextlib import contextmanager

from diapir.errors import TrainingError


@contextmanager
def single_pixels_told(what: str, **more: str) -> Iterator[None]:
    """Turn torch's own error, inside the block, into one that says what to do.

    Args:
        what: The step is, in words.
        more: Of the error: `where` and `mend`.

    Raises:
        TrainingError: A single pixel is left where the network is coarsest.
    """
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise TrainingError(
            f"{what} leaves a single pixel where the network is coarsest, of which there is no "
            "mean and deviation",
            **more,
        ) from error
