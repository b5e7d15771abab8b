"""Synthetic data on disk: tiles in the competition's layout, and a survey beside its truth."""

from pathlib import Path

from diapir.data.competition import write_competition
from diapir.data.survey import SurveyPlan, SyntheticSurvey, generate_survey, write_survey
from diapir.data.synthetic import generate_tiles
from diapir.errors import DataError
from diapir.io.segy import SegyOptions
from diapir.progress import counting

_SAY_NOTHING = {
    "--samples",
    "--coordinate-scale",
    "--text-headers",
    "--line",
    "--offset-byte",
}
"""Flags on reading SEG-Y by which nothing is written."""


def draw_tiles(
    out: Path, labelled: int, unlabelled: int, *, seed: int = 0, zipped: bool = False
) -> None:
    """Draw tiles of 101 x 101 pixels and write them in the competition's layout.

    Args:
        out: A new folder.
        labelled: Number of tiles with masks.
        unlabelled: Number of test tiles.
        seed: The same seed gives the same tiles.
        zipped: Write `train.zip` and `test.zip`.

    Raises:
        DataError: The folder holds something already, or cannot be written.
    """
    train = generate_tiles(labelled, seed)
    test = generate_tiles(unlabelled, seed + 1, labelled=False)
    write_competition(out, train, test, zipped=zipped)


def draw_survey(
    out: Path,
    truth: Path,
    plan: SurveyPlan,
    *,
    options: SegyOptions | None = None,
    progress: bool = True,
) -> SyntheticSurvey:
    """Draw a survey and write it and its truth as SEG-Y.

    Args:
        out: SEG-Y file of the survey.
        truth: SEG-Y file of the truth, 0 and 1.
        plan: What the survey is like.
        options: Bytes of the headers, sample format and byte order of the files; None is standard.
            What else says how a file is read, such as `samples`, is refused.
        progress: Show a progress bar.

    Raises:
        DataError: The two files are the same, a setting says nothing of a file that is written, or
            a file cannot be written.
    """
    options = options or SegyOptions()
    idle = [flag for flag in options.flags() if flag.split()[0] in _SAY_NOTHING]
    if idle:
        raise DataError(
            "this flag says nothing of a file that is written",
            where=idle[0],
            mend="Leave it out.",
        )
    if truth.resolve() == out.resolve():
        raise DataError(
            "the truth would take the place of the survey",
            where=f"--truth {truth}",
            expected="another name than that of the survey",
        )
    with counting(plan.shape[0], "drawing the survey", shown=progress) as advance:
        made = generate_survey(plan, advance=advance)
    write_survey(
        made,
        out,
        truth,
        code=options.sample_format or 5,
        byte_order="little" if options.byte_order == "little" else "big",
        options=options,
    )
    return made
