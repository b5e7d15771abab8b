"""What a service is started with."""

from dataclasses import dataclass, field
from pathlib import Path

from diapir.errors import DataError
from diapir.inference.predict import AS_TRAINED, PredictOptions

LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""Names of this machine alone."""

_SHORTEST_TOKEN, _LONGEST_TOKEN = 16, 1024


@dataclass(frozen=True)
class ServeSettings:
    """How the service is to behave; the limits hold for all clients together unless said.

    Args:
        models: Model files, each offered by a name of its own.
        surveys: Folders whose surveys may be mapped; nothing else is read from the disk.
        jobs: Folder for the results of jobs; None: there are no jobs.
        token: That every request but `GET /health` must bring; None: anybody is served.
        hosts: Names by which clients may call this machine; empty: any.
        max_bytes: Largest file a request may send.
        held_bytes: Of files and answers that are held at a time.
        queue: Sections that are held at a time, until their answers are sent.
        held_pixels: Of sections that are decoded and wait.
        linger_s: How long a section waits for others to be predicted with it.
        body_timeout_s: How long a client may take to send a body.
        answer_timeout_s: How long it may take to take its answer, and longer where that is long.
        options: How the models are applied.
        job_queue: Jobs that may wait.
        job_keep: Jobs that are kept, finished ones included.
        job_workers: Processes that predict a survey.
        views: What the page in the browser shows, at /view; without any there is no page.
        labels: Folder for the corrections that are drawn there.
    """

    models: tuple[Path, ...]
    surveys: tuple[Path, ...] = ()
    jobs: Path | None = None
    token: str | None = field(default=None, repr=False)
    hosts: tuple[str, ...] = LOOPBACK
    max_bytes: int = 64 << 20
    held_bytes: int = 256 << 20
    queue: int = 64
    held_pixels: int = 1 << 26
    linger_s: float = 0.004
    body_timeout_s: float = 30.0
    answer_timeout_s: float = 30.0
    options: PredictOptions = AS_TRAINED
    job_queue: int = 16
    job_keep: int = 100
    job_workers: int = 1
    views: tuple[Path, ...] = ()
    labels: Path = Path("labels")

    def __post_init__(self) -> None:
        if self.max_bytes > self.held_bytes:
            raise DataError(
                f"one file may have {self.max_bytes:,} bytes, all together {self.held_bytes:,}",
                expected="room for at least one file",
            )
        if self.token is not None:
            check_token(self.token, "token")


def read_token(path: Path) -> str:
    """Return the token in a file.

    Raises:
        DataError: The file cannot be read, or holds none that can be used.
    """
    try:
        text = path.read_bytes()[: _LONGEST_TOKEN + 2].decode("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"the token cannot be read: {error}", where=path) from error
    check_token(text, str(path))
    return text


def check_token(token: str, where: str) -> None:
    """Refuse a token that is easily guessed or cannot stand in a header.

    Raises:
        DataError: It is too short or too long, or has blanks or odd characters.
    """
    plain = token.isascii() and token.isprintable() and " " not in token
    if not plain or not _SHORTEST_TOKEN <= len(token) <= _LONGEST_TOKEN:
        raise DataError(
            f"the token has {len(token)} characters" + ("" if plain else ", some of them odd"),
            where=where,
            expected=f"{_SHORTEST_TOKEN} to {_LONGEST_TOKEN} plain characters without blanks",
            mend="Make one: python -c 'import secrets; print(secrets.token_urlsafe(32))'",
        )
