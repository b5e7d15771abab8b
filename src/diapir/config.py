"""The recipe: every setting of a training, typed, validated and frozen.

A recipe is a TOML file that names only what differs from the defaults below. Unknown keys are
errors. The resolved recipe is stored in the run folder and in the model file.
"""

import hashlib
import json
import tomllib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from diapir.errors import RecipeError

TILE_SIZE = 101
"""Height and width of a competition tile in pixels."""

TO_RANDOM_WEIGHTS = (
    "--set model.weights=none --set model.freeze=none "
    '--set "loss.stages=[{bce=0.5,dice=0.5},{from_epoch=10,lovasz=0.7,bce=0.15,dice=0.15}]"'
)
"""Options that train a recipe of pretrained weights without any: Lovasz from the start stalls."""


_MOST_RECIPE_CHARACTERS = 1 << 20
# timm takes a ':' or '/' for the address of a repository or a folder
_ENCODER = r"^[A-Za-z0-9_.-]+$"
_Channels = Annotated[int, Field(ge=1, le=4096)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class SplitConfig(_Section):
    """How labelled tiles are divided into training, validation and hold-out.

    Validation picks the epoch and the threshold; the hold-out reports the score and picks nothing.
    """

    stratify: Literal["none", "depth", "coverage", "both"] = "depth"
    holdout: float = Field(0.2, ge=0, lt=1, description="share that only reports the score")
    val: float = Field(0.1, ge=0, lt=1, description="share of the rest; unused with folds > 1")
    folds: int = Field(1, ge=1, le=100)
    seed: int = Field(0, ge=0)
    groups: str | None = Field(
        None, description="path of a CSV file id,group; tiles of one group stay in one part"
    )
    drop_blank: bool = Field(False, description="leave constant images out of training")
    drop_vertical: bool = Field(
        False, description="leave masks of vertical stripes out of training; many are wrong"
    )


class ModelConfig(_Section):
    """The network: encoder, decoder and what surrounds them."""

    encoder: str = Field(
        "resnet34",
        pattern=_ENCODER,
        description="'scratch', 'vgg16', 'vgg19' or any timm name",
    )
    weights: str = Field("none", description="'none', 'imagenet' or a .safetensors path")
    in_channels: Literal[1, 3] = 1
    depth_channel: bool = False
    coord_channels: bool = Field(False, description="the row, -1 at the top to 1 at the bottom")
    resize_to: int | None = Field(
        None, ge=32, le=1024, description="enlarge a 101-pixel tile to this; None keeps its size"
    )
    also_resize_to: tuple[Annotated[int, Field(ge=32, le=1024)], ...] = Field(
        (),
        min_length=0,
        max_length=8,
        description="further such sides; a trained network averages its logits over all",
    )
    pad_mode: Literal["reflect", "edge", "none"] = Field(
        "reflect", description="up to a multiple of the stride; 'none' lets odd sizes through"
    )
    scratch_channels: tuple[_Channels, ...] = Field(
        (16, 32, 64, 128, 256),
        min_length=2,
        max_length=8,
        description="levels of encoder 'scratch', finest first",
    )
    decoder_channels: tuple[_Channels, ...] = Field(
        (256, 128, 64, 32, 16),
        min_length=1,
        max_length=8,
        description="coarsest first; with fewer than the encoder's halvings the logits come at a "
        "part of the size and are enlarged",
    )
    upsampling: Literal["transposed", "bilinear", "pixelshuffle"] = "bilinear"
    batch_norm: bool = True
    dropout: float = Field(0.0, ge=0, lt=1)
    drop_path: float = Field(
        0.0, ge=0, lt=1, description="share of the encoder's residual branches left out of a step"
    )
    scse: bool = False
    hypercolumn: bool = False
    deep_supervision: bool = False
    empty_head: bool = False
    stem_stride: Literal[1, 2] = 2
    freeze: Literal["none", "all-but-last-stage"] | int = "none"
    mean: float | None = Field(None, description="of pixels in 0..1; None: the encoder's own")
    std: float | None = Field(None, gt=0, description="of pixels in 0..1; None: the encoder's own")


class AugmentConfig(_Section):
    """Random changes to whole batches of training tiles; 0 turns a change off."""

    flip: float = Field(0.5, ge=0, le=1, description="probability of a left-right flip")
    brightness: float = Field(0.1, ge=0, le=1, description="added, of the full range")
    contrast: float = Field(0.0, ge=0, lt=1, description="relative")
    zoom: float = Field(0.1, ge=0, lt=1, description="relative")
    shift: float = Field(0.0, ge=0, lt=1, description="of the tile's side")
    rotate_degrees: float = Field(0.0, ge=0, le=45)
    shear_degrees: float = Field(0.0, ge=0, le=45)
    elastic: float = Field(
        0.0, ge=0, le=0.08, description="of the tile's side; smooth, and never folds layers over"
    )
    noise: float = Field(0.0, ge=0, le=1, description="standard deviation, of the full range")
    probability: float = Field(1.0, ge=0, le=1, description="of each change but the flip")


class LossStage(_Section):
    """Weights of the losses from an epoch, or from a share of the training on."""

    from_epoch: int = Field(0, ge=0)
    from_progress: float = Field(
        0.0, ge=0, lt=1, description="share of the training that is over, by steps or max_minutes"
    )
    bce: float = Field(0.0, ge=0)
    dice: float = Field(0.0, ge=0)
    lovasz: float = Field(0.0, ge=0)
    symmetric_lovasz: float = Field(0.0, ge=0)

    @model_validator(mode="after")
    def _weighs_something(self) -> Self:
        if self.bce + self.dice + self.lovasz + self.symmetric_lovasz <= 0:
            raise ValueError(
                "all loss weights are 0; give at least one of bce, dice, lovasz, symmetric_lovasz"
            )
        return self


class LossConfig(_Section):
    """The training loss: one or more stages, each from an epoch on."""

    stages: tuple[LossStage, ...] = (LossStage(bce=0.15, dice=0.15, lovasz=0.7),)
    lovasz_per_image: bool = True
    lovasz_elu: bool = False
    dice_smooth: float = Field(1.0, gt=0)
    deep_supervision_weight: float = Field(0.1, ge=0)
    empty_head_weight: float = Field(0.1, ge=0)

    @model_validator(mode="after")
    def _stages_follow(self) -> Self:
        starts = [(stage.from_epoch, stage.from_progress) for stage in self.stages]
        if not starts or starts[0] != (0, 0) or sorted(set(starts)) != starts:
            raise ValueError(
                "stages must start at epoch 0 and progress 0 and rise, found (from_epoch, "
                f"from_progress) = {starts}"
            )
        return self

    def stage_at(self, epoch: int, progress: float = 0.0) -> LossStage:
        """Return the last stage that has begun.

        Args:
            epoch: Counted from 0.
            progress: Share of the training that is over, 0..1.

        >>> warm_up = LossStage(bce=1.0)
        >>> config = LossConfig(stages=(warm_up, LossStage(from_epoch=5, lovasz=1.0)))
        >>> config.stage_at(4) is warm_up, config.stage_at(5).lovasz
        (True, 1.0)
        """
        begun = (
            stage
            for stage in reversed(self.stages)
            if stage.from_epoch <= epoch and stage.from_progress <= progress
        )
        return next(begun)


class OptimConfig(_Section):
    """Optimiser, learning-rate schedule and averaging of weights."""

    name: Literal["adam", "adamw"] = "adamw"
    lr: float = Field(1e-3, gt=0)
    min_lr: float = Field(1e-4, ge=0, description="where plateau and cosine decay end")
    encoder_lr_factor: float = Field(1.0, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    schedule: Literal["constant", "plateau", "cosine", "one-cycle"] = "one-cycle"
    warmup: float = Field(0.1, ge=0, lt=1, description="share of one-cycle that rises")
    plateau_patience: int = Field(4, ge=0)
    plateau_factor: float = Field(0.5, gt=0, lt=1)
    clip_norm: float | None = Field(None, gt=0)
    ema: float | None = Field(None, gt=0, lt=1, description="decay per step")


class SmallFirst(_Section):
    """Progressive resizing: a training begins with smaller tiles, which are faster."""

    until_progress: float = Field(
        gt=0, le=1, description="share of the training after which epochs are at model.resize_to"
    )
    resize_to: int = Field(ge=32, le=1024, description="before that, in place of model.resize_to")


_Models = Field((), description="model files, averaged; {fold} stands for the number of the fold")


class SnapshotsConfig(_Section):
    """Several models from one training: the rate falls and starts again, each fall leaves one."""

    cycles: int = Field(1, ge=1, le=100, description="falls of the rate, of equal length")


class PseudoLabelsConfig(_Section):
    """Self-training: unlabelled tiles train with the masks that earlier models predict for them."""

    models: tuple[str, ...] = _Models
    rounds: int = Field(
        0, ge=0, le=20, description="trainings after the first, each taught by the one before"
    )
    share: float = Field(0.5, gt=0, le=1, description="of the unlabelled tiles, the most certain")
    warm_start: bool = Field(
        False, description="a round begins with the networks of the one before, not anew"
    )
    join_rounds: bool = Field(
        False, description="the model holds the networks of every round, not of the last alone"
    )


_OF_ALL = {"split", "pseudo_labels", "ensemble", "predict"}


class EnsembleConfig(_Section):
    """Several networks from one command, joined into one model at the end."""

    encoders: tuple[Annotated[str, Field(pattern=_ENCODER)], ...] = Field(
        (), description="each is trained in place of model.encoder"
    )
    changes: dict[str, dict[str, dict[str, Any]]] = Field(
        {},
        description="encoder to sections with what its training changes, such as "
        "{resnet34 = {train = {epochs = 30}}}",
    )

    @model_validator(mode="after")
    def _encoders_differ(self) -> Self:
        if len(set(self.encoders)) < len(self.encoders):
            raise ValueError("encoders lists one twice; for more networks of it take more folds")
        for encoder, sections in self.changes.items() if self.encoders else ():
            if encoder not in self.encoders:
                raise ValueError(f"changes names {encoder!r}, which encoders does not list")
            for common in sorted(_OF_ALL & set(sections)):
                raise ValueError(f"changes of {encoder!r} has {common!r}, which all must share")
        return self


class DistillConfig(_Section):
    """Learning from the probabilities of larger models beside the masks."""

    models: tuple[str, ...] = _Models
    weight: float = Field(
        0.5, ge=0, description="of the cross-entropy against the teachers' probabilities"
    )


class TrainConfig(_Section):
    """How long, how large, how precise."""

    start_from: str | None = Field(
        None,
        description="a model file whose network the training begins with; {fold} stands for the "
        "number of the fold",
    )
    epochs: int = Field(20, ge=1)
    batch_size: int = Field(32, ge=1, description="tiles a step in each process")
    tiles_per_epoch: int | None = Field(None, ge=1, description="None: every training tile once")
    small_first: SmallFirst | None = Field(
        None, description="progressive resizing: begin with smaller tiles"
    )
    max_minutes: float | None = Field(None, gt=0, description="the schedule ends by then")
    early_stopping: int | None = Field(None, ge=1, description="epochs without a better score")
    select: Literal["best", "last"] = Field("best", description="which epoch's weights are kept")
    validate_every: int = Field(1, ge=1, description="epochs between validations")
    seed: int = Field(0, ge=0, le=2**32 - 1)
    precision: Literal["auto", "float32", "bf16"] = "auto"
    compile: bool = False
    deterministic: bool = False


class PredictConfig(_Section):
    """How a trained model is applied."""

    flip: bool = Field(True, description="average with the prediction of the mirrored tile")
    threshold: float | None = Field(None, gt=0, lt=1, description="None: chosen on validation")
    min_peak: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="bodies of salt without a probability above it are dropped, "
        "0 keeps all; None: chosen with the threshold, and 0 where that is fixed",
    )


class Recipe(_Section):
    """Everything a training needs besides the data."""

    name: str = Field("custom", pattern=r"^\w[\w. -]*$", description="part of folder names")
    description: str = ""
    split: SplitConfig = SplitConfig()
    model: ModelConfig = ModelConfig()
    augment: AugmentConfig = AugmentConfig()
    loss: LossConfig = LossConfig()
    snapshots: SnapshotsConfig = SnapshotsConfig()
    pseudo_labels: PseudoLabelsConfig = PseudoLabelsConfig()
    distill: DistillConfig = DistillConfig()
    ensemble: EnsembleConfig = EnsembleConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    predict: PredictConfig = PredictConfig()

    @model_validator(mode="after")
    def _snapshots_fit(self) -> Self:
        if self.snapshots.cycles > 1:
            if self.optim.schedule not in ("cosine", "one-cycle"):
                raise ValueError(
                    "snapshots.cycles above 1 needs optim.schedule = 'cosine' or 'one-cycle'"
                )
            if self.train.select != "last":
                raise ValueError("snapshots.cycles above 1 needs train.select = 'last'")
        return self

    @property
    def joins_trainings(self) -> bool:
        """Whether it asks for more than one training: several encoders, or rounds."""
        return bool(self.ensemble.encoders) or self.pseudo_labels.rounds > 0

    def sha256(self) -> str:
        """Return the SHA-256 of the resolved recipe as canonical JSON."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def recipe_names() -> list[str]:
    """Return the names of the recipes that come with the package, sorted."""
    folder = resources.files("diapir") / "recipes"
    return sorted(f.name[:-5] for f in folder.iterdir() if f.name.endswith(".toml"))


def load_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> Recipe:
    """Return a packaged recipe or one from a TOML file, with ``key=value`` overrides applied.

    Args:
        name_or_path: A name out of `recipe_names`, the path of a ``.toml`` file, or that of the
            ``recipe.json`` of a run.
        overrides: Dotted keys with TOML values, such as ``"train.epochs=3"``; a value that is not
            TOML counts as a string, so ``model.weights=none`` works unquoted.

    Raises:
        RecipeError: The recipe does not exist, is neither TOML nor JSON, or has an unknown key or a
            bad value.

    >>> load_recipe("classic-vgg19", ["train.epochs=3"]).train.epochs
    3
    """
    table = _recipe_table(name_or_path)
    for override in overrides:
        _apply_override(table, override)
    table.setdefault("name", Path(name_or_path).stem)
    recipe = parse_recipe(table, where=name_or_path)
    _check_encoder_is_trained(recipe, overrides)
    return recipe


def _check_encoder_is_trained(recipe: Recipe, overrides: Sequence[str]) -> None:
    """Raise where --set names an encoder that the recipe's list of encoders takes the place of."""
    encoder, listed = recipe.model.encoder, recipe.ensemble.encoders
    asked = any(override.partition("=")[0].strip() == "model.encoder" for override in overrides)
    if asked and listed and encoder not in listed:
        raise RecipeError(
            f"{encoder} would not be trained: the recipe lists {', '.join(listed)}",
            where=f"--set model.encoder={encoder}",
            mend='Add --set "ensemble.encoders=[]" to train it alone, or list it there.',
        )


def parse_recipe(table: dict[str, Any], where: str) -> Recipe:
    """Return the validated recipe of a table of plain values.

    Raises:
        RecipeError: A key is unknown or a value is out of range.
    """
    try:
        return Recipe.model_validate(table)
    except ValidationError as error:
        first = error.errors()[0]
        # pydantic adds the branches of a union to the place, such as literal['none']
        key = ".".join(str(part) for part in first["loc"] if "[" not in str(part))
        found = f" (found {first['input']!r})" if not isinstance(first["input"], dict) else ""
        extra = first["type"] == "extra_forbidden"
        known = f"one of: {', '.join(_known_keys(first['loc']))}" if extra else None
        told = "there is no such setting" if extra else first["msg"].removeprefix("Value error, ")
        raise RecipeError(
            f"{key}: {told}{found}" if key else told,
            where=where,
            expected=known,
            mend="Correct the recipe or the --set option.",
        ) from error


def _known_keys(loc: tuple[int | str, ...]) -> list[str]:
    section: Any = Recipe
    for part in loc[:-1]:
        if isinstance(part, str):  # not a place in a tuple of sections
            annotation = section.model_fields[part].annotation
            # of a section or none, or of a tuple of sections
            inner = [one for one in get_args(annotation) if hasattr(one, "model_fields")]
            section = inner[0] if inner else annotation
    return list(section.model_fields)


def _recipe_table(name_or_path: str) -> dict[str, Any]:
    path: Any = Path(name_or_path)
    if path.suffix not in (".toml", ".json"):
        if name_or_path not in recipe_names():
            raise RecipeError(
                f"no recipe named {name_or_path!r}",
                expected=f"one of: {', '.join(recipe_names())}; or a path to a .toml or .json file",
            )
        path = resources.files("diapir") / "recipes" / f"{name_or_path}.toml"
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(_MOST_RECIPE_CHARACTERS + 1)
        if len(text) > _MOST_RECIPE_CHARACTERS:
            raise ValueError(f"it is longer than {_MOST_RECIPE_CHARACTERS:,} characters")
        table = json.loads(text) if path.name.endswith(".json") else tomllib.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise RecipeError(f"cannot read the recipe: {error}", where=path) from error
    if not isinstance(table, dict):
        raise RecipeError("the recipe is no table", where=path, expected="keys and values")
    return _on_its_base(table, path)


def _on_its_base(table: dict[str, Any], path: Any) -> dict[str, Any]:
    """Return the table, laid over that of the packaged recipe that it names as its base."""
    base = table.pop("base", None)
    if base is None:
        return table
    if base not in recipe_names():
        raise RecipeError(
            f"base = {base!r} is no recipe that comes with Diapir",
            where=path,
            expected=f"one of: {', '.join(recipe_names())}",
        )
    return laid_over(_recipe_table(base), table)


def laid_over(below: dict[str, Any], table: dict[str, Any]) -> dict[str, Any]:
    """Return the table of a recipe with the keys of another in place of its own.

    >>> laid_over({"train": {"seed": 1, "epochs": 2}}, {"train": {"seed": 3}})
    {'train': {'seed': 3, 'epochs': 2}}
    """
    both = dict(below)
    for key, value in table.items():
        sections = isinstance(value, dict) and isinstance(below.get(key), dict)
        both[key] = laid_over(below[key], value) if sections else value
    return both


def _apply_override(table: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise RecipeError(
            f"override {override!r} has no '='",
            where="--set",
            expected="key=value, such as train.epochs=3",
        )
    try:
        value: Any = tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        value = None if text == "null" else text
    *parents, last = key.strip().split(".")
    for parent in parents:
        table = table.setdefault(parent, {})
        if not isinstance(table, dict):
            raise RecipeError(f"{parent!r} is a value, not a section", where=f"--set {override}")
    table[last] = value
