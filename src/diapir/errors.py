"""The errors that Diapir raises on purpose: each says what is wrong, where, and what to do."""


class DiapirError(Exception):
    """Base of every error that a user of Diapir can fix.

    Args:
        what: What is wrong, with the value that was found.
        where: File, row, byte or key that holds it.
        expected: What would have been right.
        mend: What to do now.

    >>> print(DiapirError("odd number of values (3)", where="train.csv row 7", mend="Remove one."))
    odd number of values (3)
      where: train.csv row 7
      fix: Remove one.
    """

    exit_code = 2
    """With which the command line ends; `signal_exit_code` where a signal is behind the error."""

    def __init__(
        self,
        what: str,
        *,
        where: object = None,
        expected: str | None = None,
        mend: str | None = None,
    ) -> None:
        self.what = what
        self.where = None if where is None else str(where)
        self.expected = expected
        self.mend = mend
        super().__init__(what)

    def __str__(self) -> str:
        labelled = (("where", self.where), ("expected", self.expected), ("fix", self.mend))
        return "\n".join([self.what, *(f"  {label}: {text}" for label, text in labelled if text)])


class DataError(DiapirError):
    """Images, masks, depths or run-lengths that cannot be used as they are."""


class OptionError(DiapirError):
    """An option whose value cannot be used, or not beside another one's.

    Args:
        what: What is wrong, with the value that was found.
        options: Names of the options, as Python and the service know them; `where` has them as the
            command line does.
        expected: What would have been right.
        mend: What to do now.

    >>> print(OptionError("scales of 0 and 1", "sample_scale", "trace_scale"))
    scales of 0 and 1
      where: --sample-scale, --trace-scale
    """

    def __init__(
        self, what: str, *options: str, expected: str | None = None, mend: str | None = None
    ) -> None:
        flags = ", ".join(f"--{option.replace('_', '-')}" for option in options)
        super().__init__(what, where=flags, expected=expected, mend=mend)
        self.options = options


class RecipeError(DiapirError):
    """A recipe with an unknown key, a value out of range, or settings at odds with each other."""


class WeightsError(DiapirError):
    """Encoder weights that are not there, cannot be downloaded, or do not fit the encoder."""


class ModelFileError(DiapirError):
    """A file that is not a Diapir model, is damaged, or comes from a newer version."""


class SubmissionError(DiapirError):
    """A submission file that the competition would refuse or misread."""


class RunError(DiapirError):
    """A run folder or an output place that cannot be used: missing, foreign, full or read-only."""


class DeviceError(DiapirError):
    """A device whose memory is not enough for what it is asked to do."""


class TrainingError(DiapirError):
    """A training that cannot go on, such as a loss that is no longer a number."""


def signal_exit_code(number: int) -> int:
    """Return the shell's exit code for an end by a signal, such as 130 for Ctrl-C."""
    return 128 + number
