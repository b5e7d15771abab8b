"""What made a result: of a model, and of whatever models were applied to."""

from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # loading it asks git for the commit, which who only describes data does not need
    from diapir.models.modelcard import ModelCard


def provenance(card: "ModelCard") -> list[tuple[str, str]]:
    """Return what made a model, as rows of name and value."""
    rows = [
        ("recipe", card.recipe.name),
        ("recipe SHA-256", card.recipe.sha256()),
        ("data SHA-256", card.data_fingerprint),
        ("training tiles", f"{len(card.train_ids):,}"),
        ("seed", str(card.recipe.train.seed)),
        ("threshold", f"{card.threshold:.2f}"),
        ("temperature", f"{card.rule.temperature:.3f}"),
        ("smallest body", f"{card.rule.min_body} pixels"),
        ("empty below", f"{card.rule.empty_below:g} pixels of summed probability"),
        ("lowest peak of a body", f"{card.rule.min_peak:g}"),
        ("source commit", card.git or "not from a source tree"),
        ("created", card.created),
    ]
    normalised = card.normalisation
    if normalised is not None:
        told = f"mean {normalised.mean:.4f}, standard deviation {normalised.std:.4f}"
        rows.append(("normalisation of pixels", told))
    return rows + [(name, found) for name, found in card.versions.items()]


def made_with(
    models: Iterable[tuple[str, "ModelCard"]], fingerprint: str, digests: Sequence[str] = ()
) -> dict[str, Any]:
    """Return what made a result that models were applied for, as plain values for its JSON.

    Args:
        models: Name and card of each.
        fingerprint: Of the data that they were applied to.
        digests: SHA-256 of each model file, where they are known.

    Returns:
        `data_fingerprint`, and `versions` and `git` of this process; of each of `models` its recipe
        hash, fingerprint, seed, versions, commit and metrics.
    """
    from diapir.models.modelcard import library_versions, source_commit

    return {
        "data_fingerprint": fingerprint,
        "versions": library_versions(),
        "git": source_commit(),
        "models": [
            {
                "file": name,
                **({"sha256": digest} if digest else {}),
                **dict(provenance(card)),
                "metrics": card.metrics,
            }
            for (name, card), digest in zip_longest(models, digests)
        ],
    }
