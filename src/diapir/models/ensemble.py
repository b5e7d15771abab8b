"""Ensembles: several networks in one file, averaged, with one threshold and one calibration.

One file and not a list of files: whoever moves or mails it cannot lose a member or mix up two
versions of one, and every verb that applies a model applies it. It is a safetensors file like any
model file; the tensors of member K are called `K.NAME`, and the card has the recipe and weight of
each member beside what is common to all.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diapir.config import Recipe, parse_recipe
from diapir.errors import DiapirError, ModelFileError
from diapir.io.atomic import write_bytes_atomic
from diapir.io.digests import file_sha256
from diapir.models.modelcard import (
    ModelCard,
    Normalisation,
    broken,
    parse_card,
    read_table,
    unknown_recipe,
)
from diapir.models.stored import StoredNet

if TYPE_CHECKING:  # torch comes with them, and who has an engine of the networks needs none
    from torch import Tensor

    from diapir.models.unet import SaltNet

ENSEMBLE_FORMAT = 2
"""Format of the metadata of an ensemble: a Diapir that knows none asks to be updated."""


@dataclass(frozen=True, eq=False)
class Networks:
    """What a model file or an ensemble holds.

    Args:
        nets: To be built, on the CPU.
        weights: One a network, above 0.
        card: Common to all: threshold, rule, ids; its recipe is that of the first network.
    """

    nets: tuple[StoredNet, ...]
    weights: tuple[float, ...]
    card: ModelCard

    @property
    def relative_weights(self) -> list[float]:
        """Weights with a mean of 1: beside other files each network of a file counts as one."""
        mean = sum(self.weights) / len(self.weights)
        return [weight / mean for weight in self.weights]


@dataclass(frozen=True, eq=False)
class Member:
    """A network of an ensemble.

    Args:
        net: The network.
        recipe: That trained it.
        weight: Relative to those of the others, above 0.
        name: Where it comes from, for the reader.
    """

    net: "SaltNet"
    recipe: Recipe
    weight: float = 1.0
    name: str = ""


def save_ensemble(
    path: Path, members: Sequence[Member], card: ModelCard, *, half: bool = False
) -> None:
    """Write networks and what is common to them as one file, whole or not at all.

    Args:
        path: Should end in `.safetensors`.
        members: At least one.
        card: Its recipe should be that of the first member.
        half: As in `save_model`.

    Raises:
        RunError: The file cannot be written.
    """
    from diapir.models.modelfile import normalisation_of, serialise_state

    state: dict[str, Tensor] = {}
    for number, member in enumerate(members):
        own = member.net.state_dict()
        state |= {f"{number}.{name}": tensor for name, tensor in own.items()}
    listed = [
        {
            "recipe": m.recipe.model_dump(mode="json"),
            "weight": m.weight,
            "name": m.name,
            "normalisation": asdict(normalisation_of(m.net)),
        }
        for m in members
    ]
    card = replace(card, normalisation=None)
    extra = {"format": ENSEMBLE_FORMAT, "members": listed}
    write_bytes_atomic(path, serialise_state(state, card, extra, half=half))


def read_networks(path: Path) -> Networks:
    """Return the networks of a model file or an ensemble, each to be built when it is needed.

    Raises:
        ModelFileError: As in `load_model`, as far as the header tells; of the weights each network
            says it when it is built, and that the file has been replaced since.
    """
    table = read_table(path)
    card, members = parse_card(path, table), _parse_members(path, table)
    digest = file_sha256(path)
    if not members:
        net = _stored(path, card.recipe, card.normalisation, digest)
        return Networks((net,), (1.0,), card)
    nets = tuple(
        _stored(path, member.recipe, member.normalisation, digest, number, len(members))
        for number, member in enumerate(members)
    )
    return Networks(nets, tuple(member.weight for member in members), card)


def _stored(
    path: Path,
    recipe: Recipe,
    normalisation: Normalisation | None,
    digest: str,
    number: int | None = None,
    members: int = 1,
) -> StoredNet:
    prefix = "" if number is None else f"{number}."

    def build() -> "SaltNet":
        from diapir.models.modelfile import build_network

        net = build_network(path, recipe, normalisation, prefix=prefix, members=members)
        if file_sha256(path) != digest:  # what is remembered of the file is not of these weights
            raise ModelFileError(
                "the model file was replaced while it was in use",
                where=path,
                mend="Start again, to use the new one throughout.",
            )
        return net

    return StoredNet(recipe.model, f"{digest}/{prefix}", build)


@dataclass(frozen=True)
class ListedMember:
    """What the header of an ensemble says of a member.

    Args:
        recipe: That trained it.
        weight: Relative to those of the others.
        name: Where it comes from.
        normalisation: Of its pixels; None: the file is of before it was stored.
    """

    recipe: Recipe
    weight: float
    name: str
    normalisation: Normalisation | None


def read_members(path: Path) -> list[ListedMember]:
    """Return the members of an ensemble from its header; none for the file of one network.

    Raises:
        ModelFileError: As in `load_model`.
    """
    return _parse_members(path, read_table(path))


def _parse_members(path: Path, table: dict[str, Any]) -> list[ListedMember]:
    try:
        return [_parse_member(entry, path) for entry in table.get("members", [])]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise broken(
            path, f"its list of members cannot be read ({type(error).__name__})"
        ) from error


def _parse_member(entry: dict[str, Any], path: Path) -> ListedMember:
    weight = float(entry["weight"])
    if not 0 < weight < float("inf"):
        raise ValueError(f"weight {weight}")
    try:
        recipe = parse_recipe(entry["recipe"], where=str(path))
    except DiapirError as error:
        raise unknown_recipe(path, "a member's recipe", error) from error
    normalisation = Normalisation.from_json(entry.get("normalisation"))
    return ListedMember(recipe, weight, str(entry["name"]), normalisation)
