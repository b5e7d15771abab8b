"""What the doctor takes down of a SEG-Y file: facts, findings, and the flags that read it."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from diapir.errors import DiapirError
from diapir.io.segy_layout import ASK_DOCTOR

Severity = Literal["note", "warning", "error"]


@dataclass(frozen=True)
class Finding:
    """Something that a user should know before using a file.

    Args:
        severity: note, warning, or error where the file cannot be used as it is.
        what: What was found, with numbers.
        mend: What to do about it; empty for nothing.
    """

    severity: Severity
    what: str
    mend: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """What `diagnose` found.

    Args:
        path: The file.
        facts: Names and values for a table.
        findings: What is odd, in the order in which it was found.
        flags: What to pass to the verbs that read the file.
        usable: Whether the file opens as a survey or a line with these flags.
        text: The text header.
    """

    path: Path
    facts: tuple[tuple[str, str], ...]
    findings: tuple[Finding, ...]
    flags: tuple[str, ...]
    usable: bool
    text: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return everything, fit for JSON."""
        return {
            "path": str(self.path),
            "usable": self.usable,
            "flags": list(self.flags),
            "facts": dict(self.facts),
            "findings": [asdict(finding) for finding in self.findings],
            "text": self.text,
        }


@dataclass
class Chart:
    """Facts and findings as they come in."""

    facts: list[tuple[str, str]] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    text: str = ""
    usable: bool = False
    flags: tuple[str, ...] = ()

    def fact(self, name: str, value: object) -> None:
        """Add a row to the table."""
        self.facts.append((name, str(value)))

    def find(self, severity: Severity, what: str, mend: str = "") -> None:
        """Add a finding."""
        self.findings.append(Finding(severity, what, mend))

    def blame(self, error: DiapirError) -> None:
        """Add an error as a finding, without the advice to ask the doctor."""
        place = f" ({error.where})" if error.where else ""
        mend = (error.mend or "").replace(ASK_DOCTOR, "").strip()
        self.find("error", f"{error.what}{place}", mend or "Ask for the whole file.")
