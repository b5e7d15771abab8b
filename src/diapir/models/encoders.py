"""Encoders: feature pyramids from timm, and the classic U-Net's own from scratch."""

import logging
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from diapir.config import TO_RANDOM_WEIGHTS, ModelConfig
from diapir.errors import RecipeError, WeightsError
from diapir.models.blocks import ConvBlock


@dataclass(frozen=True)
class EncoderInfo:
    """What a decoder must know of an encoder.

    Args:
        channels: Channels of every level, finest first.
        reductions: Input size over level size, powers of two, finest first.
        mean: Of the pixels in 0..1 the weights expect.
        std: Of the pixels in 0..1 the weights expect.
    """

    channels: tuple[int, ...]
    reductions: tuple[int, ...]
    mean: float
    std: float


def build_encoder(config: ModelConfig, in_channels: int) -> tuple[nn.Module, EncoderInfo]:
    """Return an encoder from (B, in_channels, H, W) to a list of feature maps, and its facts.

    Args:
        config: Names the encoder, its weights, the stride of its stem and what is frozen.
        in_channels: Grey channels of the image, then depth and coordinate channels.

    Raises:
        RecipeError: timm has no such encoder, or it has no feature pyramid.
        WeightsError: The weights cannot be read, downloaded or fitted.
    """
    if config.encoder == "scratch":
        encoder, info = _scratch(config, in_channels)
    else:
        encoder, info = _from_timm(config, in_channels)
    _freeze(encoder, config.freeze, in_channels)
    return encoder, info


class ScratchEncoder(nn.Module):
    """The contracting path of the classic U-Net: two 3x3 convolutions a level, then 2x2 pooling.

    Source: Ronneberger et al. 2015, arXiv 1505.04597, figure 1.
    """

    def __init__(
        self, in_channels: int, channels: tuple[int, ...], *, batch_norm: bool, dropout: float
    ) -> None:
        super().__init__()
        self.levels = nn.ModuleList()
        for out_channels in channels:
            self.levels.append(
                nn.Sequential(
                    ConvBlock(in_channels, out_channels, batch_norm=batch_norm),
                    ConvBlock(out_channels, out_channels, batch_norm=batch_norm),
                )
            )
            in_channels = out_channels
        self.pool = nn.MaxPool2d(2, ceil_mode=True)
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return one (B, C_i, H / 2^i, W / 2^i) map a level, finest first."""
        features: list[Tensor] = []
        for level in self.levels:
            x = level(self.dropout(self.pool(features[-1])) if features else x)
            features.append(x)
        return features


def _scratch(config: ModelConfig, in_channels: int) -> tuple[nn.Module, EncoderInfo]:
    if config.weights != "none":
        raise WeightsError(
            f"encoder 'scratch' has no weights {config.weights!r}",
            where="model.weights",
            expected="'none'",
        )
    if config.drop_path:
        raise RecipeError(
            "encoder 'scratch' has no paths to drop",
            where=f"model.drop_path = {config.drop_path:g}",
            expected="0",
            mend="Use model.dropout, or another encoder.",
        )
    channels = config.scratch_channels
    encoder = ScratchEncoder(
        in_channels, channels, batch_norm=config.batch_norm, dropout=config.dropout
    )
    reductions = tuple(2**level for level in range(len(channels)))
    return encoder, EncoderInfo(channels, reductions, mean=0.5, std=0.5)


def _from_timm(config: ModelConfig, in_channels: int) -> tuple[nn.Module, EncoderInfo]:
    from diapir.models.quick_conv import train_quicker  # timm comes with it, see _create_timm

    encoder = _create_timm(config)
    if config.weights not in ("none", "imagenet"):
        _load_weights(encoder, Path(config.weights))
    channels = tuple(encoder.feature_info.channels())
    reductions = tuple(int(r) for r in encoder.feature_info.reduction())
    stems = _try_out(encoder, config.encoder, channels, reductions)
    if config.stem_stride == 1 and reductions[0] > 1:
        _slow_down(stems, config.encoder)
        reductions = tuple(r // 2 for r in reductions)
    for stem in stems:
        _adapt_stem(stem, config.in_channels, in_channels)
    train_quicker(encoder)
    normalisation = encoder.pretrained_cfg
    info = EncoderInfo(
        channels=channels,
        reductions=reductions,
        mean=sum(normalisation["mean"]) / 3,
        std=sum(normalisation["std"]) / 3,
    )
    return encoder, info


def _create_timm(config: ModelConfig) -> Any:
    import timm  # takes as long as torch itself, and whoever has an engine builds no network

    # VGG ends in a pooled level of 1/32 that no skip of the classic decoder uses
    options: dict[str, Any] = {}
    if config.encoder.startswith("vgg"):
        options = {"out_indices": (0, 1, 2, 3, 4)}
    elif config.encoder.startswith("swin"):
        options = {"strict_img_size": False}
    if config.drop_path:
        options["drop_path_rate"] = config.drop_path
    pretrained = config.weights == "imagenet"
    # the hub client tells of every retry; the error at the end says it once
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    try:
        return timm.create_model(
            config.encoder, pretrained=pretrained, features_only=True, in_chans=3, **options
        )
    except RuntimeError as error:
        if not timm.is_model(config.encoder.split(".")[0]):
            names = get_close_matches(config.encoder, timm.list_models(), n=8)
            close = ", ".join(["'scratch'", *names])
            raise RecipeError(
                f"timm has no encoder {config.encoder!r}",
                where="model.encoder",
                expected=f"a name of timm.list_models() or one of: {close}",
            ) from error
        raise _cannot_build(config, pretrained, error) from error
    except TypeError as error:  # of an option that the encoder does not take, before any download
        raise _cannot_build(config, False, error) from error
    except Exception as error:  # whatever the hub client raises offline: there is no common base
        raise _cannot_build(config, pretrained, error) from error


def _cannot_build(config: ModelConfig, pretrained: bool, error: Exception) -> Exception:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if pretrained:
        return WeightsError(
            f"cannot get the ImageNet weights of {config.encoder!r}: {reason}",
            where="model.weights = 'imagenet' (downloaded by timm)",
            mend="Go online once so that timm can cache them, or give a .safetensors file with "
            "--set model.weights=PATH, or start from random weights, with a loss that does not "
            f"stall then: {TO_RANDOM_WEIGHTS}",
        )
    return RecipeError(
        f"timm cannot build {config.encoder!r} as a feature pyramid: {reason}",
        where="model.encoder",
        expected="an encoder with features_only support",
    )


def _load_weights(encoder: nn.Module, path: Path) -> None:
    try:
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        raise WeightsError(
            f"cannot read encoder weights: {error}",
            where=path,
            expected="a safetensors file with timm's parameter names",
        ) from error
    own = encoder.state_dict()
    # FeatureListNet flattens 'blocks.0' to 'blocks_0'; timm's own names have dots
    state = {_flattened(name, own): value.float() for name, value in state.items()}
    # older files lack the counters of batch norm, which nothing here reads
    counters = {name: own[name] for name in own if name.endswith("num_batches_tracked")}
    state = counters | state
    missing = sorted(name for name in own if name not in state)
    wrong = sorted(n for n in own if n in state and own[n].shape != state[n].shape)
    if missing or wrong:
        raise WeightsError(
            f"{len(missing)} parameters are missing and {len(wrong)} have another shape, "
            f"first {(missing + wrong)[0]!r}",
            where=path,
            expected="weights of the encoder named in model.encoder",
            mend="Give the weights of this encoder, or change model.encoder.",
        )
    encoder.load_state_dict({name: state[name] for name in own})


def _flattened(name: str, own: dict[str, Tensor]) -> str:
    if name in own:
        return name
    parts = name.split(".")
    for cut in range(1, len(parts)):
        candidate = "_".join(parts[: cut + 1]) + "." + ".".join(parts[cut + 1 :])
        if candidate in own:
            return candidate
    return name


def _try_out(
    encoder: nn.Module, name: str, channels: tuple[int, ...], reductions: tuple[int, ...]
) -> list[nn.Conv2d]:
    """Return the convolutions that see the image, after checking the pyramid on a small one.

    Levels with channels last, as some transformers give them, are turned from here on.

    Raises:
        RecipeError: The encoder wants one size of image, or its levels do not halve one another.
    """
    image = torch.zeros(1, 3, _TRIAL_SIZE, _TRIAL_SIZE)
    stems: list[nn.Conv2d] = []

    def note(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if isinstance(module, nn.Conv2d) and inputs[0].data_ptr() == image.data_ptr():
            stems.append(module)

    hooks = [module.register_forward_pre_hook(note) for module in encoder.modules()]
    was_training = encoder.training
    try:
        with torch.no_grad():
            levels = encoder.eval()(image)
    except (AssertionError, RuntimeError, ValueError) as error:
        raise _no_pyramid(name, f"it does not take any size of tile: {error}") from error
    finally:
        encoder.train(was_training)
        for hook in hooks:
            hook.remove()
    shapes = [tuple(level.shape[1:]) for level in levels]
    last = [shape[-1] for shape in shapes]
    if last == list(channels) and [shape[0] for shape in shapes] != list(channels):
        encoder.register_forward_hook(_channels_first)
        shapes = [(shape[2], shape[0], shape[1]) for shape in shapes]
    doubling = all(b == 2 * a for a, b in pairwise(reductions))
    fitting = all(
        shape[0] == count and abs(shape[1] - _TRIAL_SIZE / reduction) < 1
        for shape, count, reduction in zip(shapes, channels, reductions, strict=True)
    )
    if not (stems and doubling and fitting):
        raise _no_pyramid(name, f"its levels have reductions {reductions} and shapes {shapes}")
    return stems


_TRIAL_SIZE = 64


def _channels_first(encoder: nn.Module, inputs: Any, levels: list[Tensor]) -> list[Tensor]:
    return [level.permute(0, 3, 1, 2) for level in levels]


def _no_pyramid(name: str, reason: str) -> RecipeError:
    return RecipeError(
        f"{name!r} cannot be the encoder of a U-Net: {' '.join(reason.split())}",
        where="model.encoder",
        expected="a backbone that takes images of any size and halves them level by level",
        mend="Take a convolutional one, such as resnet34 or tf_efficientnet_lite0.",
    )


def _slow_down(stems: list[nn.Conv2d], name: str) -> None:
    """Let the stem keep the size of the image, so that every level is twice as large."""
    if any(stem.stride != (2, 2) for stem in stems):
        raise RecipeError(
            f"the stem of {name!r} has stride {stems[0].stride[0]}",
            where="model.stem_stride = 1",
            expected="an encoder whose first convolution halves the image",
            mend="Set model.stem_stride = 2, or enlarge the tiles with model.resize_to.",
        )
    for stem in stems:
        stem.stride = (1, 1)


def _adapt_stem(stem: nn.Conv2d, grey_channels: int, in_channels: int) -> None:
    """Make an RGB stem take grey channels, then extra channels whose weights start at zero."""
    weight = stem.weight.data
    if grey_channels == 1:  # equal channels: the sum over RGB gives the same response
        weight = weight.sum(dim=1, keepdim=True)
    extra = in_channels - grey_channels
    zeros = weight.new_zeros(weight.shape[0], extra, *weight.shape[2:])
    stem.weight = nn.Parameter(torch.cat([weight, zeros], dim=1))
    stem.in_channels = in_channels


def _freeze(encoder: nn.Module, freeze: str | int, in_channels: int) -> None:
    if freeze in ("none", 0):
        return
    stages = parameter_stages(encoder, in_channels)
    count = max(stages.values()) + 1
    frozen = count - 1 if freeze == "all-but-last-stage" else cast(int, freeze)
    if not 0 <= frozen <= count:
        raise RecipeError(
            f"cannot freeze {frozen} stages", where="model.freeze", expected=f"0 to {count}"
        )
    for name, parameter in encoder.named_parameters():
        if stages.get(name, count) < frozen:
            parameter.requires_grad_(False)


def parameter_stages(encoder: nn.Module, in_channels: int) -> dict[str, int]:
    """Return for each parameter the first level that depends on it, found by backpropagation.

    Asking autograd works for every backbone; timm's module names differ from family to family.
    """
    was_training = encoder.training
    encoder.eval()
    parameters = dict(encoder.named_parameters())
    features = encoder(torch.zeros(1, in_channels, 64, 64))
    stages: dict[str, int] = {}
    for level, feature in enumerate(features):
        gradients = torch.autograd.grad(
            feature.sum(), list(parameters.values()), retain_graph=True, allow_unused=True
        )
        for name, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                stages.setdefault(name, level)
    encoder.train(was_training)
    return stages
