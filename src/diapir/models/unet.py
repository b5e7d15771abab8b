"""The U-Net: an encoder's feature pyramid, a decoder that climbs it, one logit a pixel."""

from collections.abc import Sequence
from typing import NamedTuple, Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diapir.config import TILE_SIZE, ModelConfig
from diapir.errors import RecipeError
from diapir.models.blocks import ConvBlock, ScSE, Upsample, is_traced
from diapir.models.encoders import EncoderInfo, build_encoder
from diapir.models.processor import fastest_precision


class Outputs(NamedTuple):
    """What the network says of a batch while it trains.

    Args:
        logits: (B, 1, H, W) of the pixels.
        aux_logits: (B, 1, H, W) of each coarser decoder level, where deep supervision is on.
        salt_logits: (B,) that a tile holds any salt, where the empty-tile head is on.
    """

    logits: Tensor
    aux_logits: tuple[Tensor, ...] = ()
    salt_logits: Tensor | None = None

    @property
    def final_logits(self) -> Tensor:
        """(B, 1, H, W) of the answer: with an empty-tile head, pixel and tile must both be salt."""
        if self.salt_logits is None:
            return self.logits
        return _both(self.logits, self.salt_logits[:, None, None, None])


class DecoderBlock(nn.Module):
    """Doubles the size, joins the skip, convolves twice."""

    def __init__(
        self, in_channels: int, skip_channels: int, out_channels: int, config: ModelConfig
    ) -> None:
        super().__init__()
        self.up = Upsample(config.upsampling, in_channels, out_channels)
        self.dropout = nn.Dropout(config.dropout) if config.dropout else nn.Identity()
        joined = self.up.out_channels + skip_channels
        self.conv1 = ConvBlock(joined, out_channels, batch_norm=config.batch_norm)
        self.conv2 = ConvBlock(out_channels, out_channels, batch_norm=config.batch_norm)
        self.attention = ScSE(out_channels) if config.scse else nn.Identity()

    def forward(self, x: Tensor, skip: Tensor | None, size: tuple[int, int]) -> Tensor:
        """Return (B, out_channels, *size) from (B, in_channels, ...) and the skip of that size."""
        x = self.up(x, size)
        if skip is not None:
            if skip.dtype != x.dtype:  # joined they would be float32, and bf16 again after that
                skip = skip.to(x.dtype)
            x = torch.cat([x, skip], dim=1)
        x = self.conv2(self.conv1(self.dropout(x)))
        return cast(Tensor, self.attention(x))


class Decoder(nn.Module):
    """Climbs from the coarsest feature map, one block a doubling, to full size or short of it."""

    def __init__(self, info: EncoderInfo, config: ModelConfig) -> None:
        super().__init__()
        steps = info.reductions[-1].bit_length() - 1
        outputs = _decoder_channels(config.decoder_channels, steps)
        skips = dict(zip(info.reductions[:-1], info.channels[:-1], strict=True))
        in_channels = info.channels[-1]
        self.blocks = nn.ModuleList()
        for step, out_channels in enumerate(outputs):
            skip_channels = skips.get(info.reductions[-1] >> (step + 1), 0)
            self.blocks.append(DecoderBlock(in_channels, skip_channels, out_channels, config))
            in_channels = out_channels
        self.channels = outputs
        self.reductions = info.reductions

    def forward(self, features: Sequence[Tensor], size: tuple[int, int]) -> list[Tensor]:
        """Return the output of every block, coarsest first, for an input of this size."""
        skips = dict(zip(self.reductions, features, strict=True))
        reduction = self.reductions[-1]
        x, outputs = features[-1], []
        for block in self.blocks:
            reduction //= 2
            skip = skips.get(reduction)
            target = (_ceil_div(size[0], reduction), _ceil_div(size[1], reduction))
            x = block(x, skip, target if skip is None else tuple(skip.shape[-2:]))
            outputs.append(x)
        return outputs


class SaltNet(nn.Module):
    """A U-Net from grey seismic tiles to salt logits, for any height and width.

    Args:
        config: The model section of a recipe.

    Raises:
        RecipeError: The settings contradict each other or the encoder.
        WeightsError: The encoder's weights cannot be had.

    >>> config = ModelConfig(encoder="scratch", scratch_channels=(4, 8), decoder_channels=(4,))
    >>> net = SaltNet(config)
    >>> net(torch.zeros(2, 1, 101, 67)).shape
    torch.Size([2, 1, 101, 67])
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        in_channels = config.in_channels + config.depth_channel + config.coord_channels
        self.encoder, info = build_encoder(config, in_channels)
        self.decoder = Decoder(info, config)
        self.mean = info.mean if config.mean is None else config.mean
        self.std = info.std if config.std is None else config.std
        # side in pixels to which a 101-pixel tile is resized; progressive resizing changes it
        self.resize_to = config.resize_to
        self.stride = info.reductions[-1]
        channels = self.decoder.channels
        width = channels[-1]
        self.hyper = nn.ModuleList(
            nn.Conv2d(c, width, 1) for c in channels[:-1] if config.hypercolumn
        )
        self.head = nn.Conv2d(width * (1 + len(self.hyper)), 1, 1)
        self.aux_heads = nn.ModuleList(
            nn.Conv2d(c, 1, 1) for c in channels[:-1] if config.deep_supervision
        )
        self.salt_head = nn.Linear(info.channels[-1], 1) if config.empty_head else None
        self.to(memory_format=torch.channels_last)
        self.autocast_dtype: torch.dtype | None = None
        # a graph of one size keeps its plain padding, which is quicker and known to every engine
        self.pads_any_size = False
        self.train()

    def train(self, mode: bool = True) -> Self:
        """Switch between training and evaluation; frozen batch norms keep their statistics."""
        super().train(mode)
        for module in self.encoder.modules():
            if isinstance(module, nn.BatchNorm2d) and module.affine:
                module.train(mode and module.weight.requires_grad)
        return self

    def set_precision(self, precision: str, device: str) -> None:
        """Choose the dtype of the convolutions: 'float32', 'bf16', or the faster one ('auto').

        'auto' is bf16 where the processor or the card has instructions for it, else float32. Once a
        network is to compute in float32 on a card, no convolution of this process uses TF32 there,
        whose mantissa has 10 bits and which torch allows by default.

        Source: PyTorch, CUDA semantics, TensorFloat-32.
        """
        if precision == "auto":
            precision = _fastest_on(device)
        if precision == "float32" and device != "cpu":
            torch.backends.cudnn.allow_tf32 = False
        self.autocast_dtype = None if precision == "float32" else torch.bfloat16

    def forward(self, images: Tensor, z_feet: Tensor | None = None) -> Tensor:
        """Return salt logits; in evaluation mode the mean over all sizes of the recipe.

        Args:
            images: (B, 1, H, W) floating grey values in 0..1.
            z_feet: (B,) depths, needed where the recipe has a depth channel.

        Returns:
            (B, 1, H, W) float32 logits. With an empty-tile head a pixel is salt only if the tile
            holds any: its probability is the product of both.
        """
        logits = self.forward_all(images, z_feet).final_logits
        if self.training or not self.config.also_resize_to:
            return logits
        further = [
            self._forward_at(images, z_feet, side).final_logits
            for side in self.config.also_resize_to
        ]
        return torch.stack([logits, *further]).mean(dim=0)

    def forward_all(self, images: Tensor, z_feet: Tensor | None = None) -> Outputs:
        """Return every output that a loss may look at; arguments as in `forward`."""
        return self._forward_at(images, z_feet, self.resize_to)

    def _forward_at(self, images: Tensor, z_feet: Tensor | None, side: int | None) -> Outputs:
        size = (images.shape[-2], images.shape[-1])
        x = _at_tile_side(images, side)
        inner = (x.shape[-2], x.shape[-1])
        x, (top, left) = self._padded(x)
        x = self._prepared(x, z_feet).contiguous(memory_format=torch.channels_last)
        with _autocast(x, self.autocast_dtype):
            features = self.encoder(x)
            levels = self.decoder(features, (x.shape[-2], x.shape[-1]))
            logits = self.head(self._hypercolumn(levels))
        padded = (x.shape[-2], x.shape[-1])

        def on_images(found: Tensor) -> Tensor:
            found = found.float()
            if padded != inner or is_traced():
                found = _resize(found, padded)[..., top : top + inner[0], left : left + inner[1]]
            return _resize(found, size)

        aux = tuple(
            on_images(head(level.float()))
            for head, level in zip(self.aux_heads, levels[:-1], strict=bool(self.aux_heads))
        )
        salt = None
        if self.salt_head is not None:
            salt = self.salt_head(features[-1].float().mean(dim=(2, 3))).squeeze(1)
        return Outputs(on_images(logits), aux, salt)

    def _padded(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        if self.pads_any_size and is_traced():
            return _padded_in_graph(x, self.stride, self.config.pad_mode)
        # below one stride even 'none' pads: some encoders would halve the tile away
        if self.config.pad_mode == "none" and min(x.shape[-2:]) >= self.stride:
            return x, (0, 0)
        missing = [-side % self.stride for side in x.shape[-2:]]
        top, left = missing[0] // 2, missing[1] // 2
        pads = (left, missing[1] - left, top, missing[0] - top)
        # a tile cannot be mirrored by more than its own size
        mirrored = self.config.pad_mode == "reflect" and all(
            max(pads[2 * i], pads[2 * i + 1]) < x.shape[-1 - i] for i in (0, 1)
        )
        return F.pad(x, pads, mode="reflect" if mirrored else "replicate"), (top, left)

    def _prepared(self, x: Tensor, z_feet: Tensor | None) -> Tensor:
        batch, _, height, width = x.shape
        channels = [((x - self.mean) / self.std).expand(-1, self.config.in_channels, -1, -1)]
        if self.config.depth_channel:
            if z_feet is None:
                raise RecipeError(
                    "this model uses depth, but no depths were given",
                    where="model.depth_channel",
                    mend="Add depths.csv to the data, or train with model.depth_channel = false.",
                )
            depth = (z_feet.to(x) / 1000.0).view(-1, 1, 1, 1)
            channels.append(depth.expand(-1, 1, height, width))
        if self.config.coord_channels:
            rows = torch.linspace(-1, 1, height, device=x.device, dtype=x.dtype)
            channels.append(rows.view(1, 1, -1, 1).expand(batch, 1, -1, width))
        return torch.cat(channels, dim=1)

    def _hypercolumn(self, levels: list[Tensor]) -> Tensor:
        if not self.hyper:
            return levels[-1]
        size = levels[-1].shape[-2:]
        columns = [
            _resize(project(level), (size[0], size[1]))
            for project, level in zip(self.hyper, levels[:-1], strict=True)
        ]
        return torch.cat([*columns, levels[-1]], dim=1)


def _fastest_on(device: str) -> str:
    if device == "cpu":
        return fastest_precision()
    # a card from before Ampere takes bf16, too, but step by step in float32
    emulated = device == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False)
    return "float32" if emulated else "bf16"


def _decoder_channels(channels: tuple[int, ...], steps: int) -> tuple[int, ...]:
    if 1 <= len(channels) <= steps:
        return channels
    raise RecipeError(
        f"{len(channels)} decoder channels for an encoder that halves {steps} times",
        where="model.decoder_channels",
        expected=f"{steps} values, coarsest first, or fewer to stop short of full size",
    )


def _autocast(x: Tensor, dtype: torch.dtype | None) -> torch.autocast:
    return torch.autocast(x.device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None)


def _at_tile_side(images: Tensor, tile_side: int | None) -> Tensor:
    """Return images enlarged as a 101-pixel tile is that gets this side."""
    if tile_side is None:
        return images
    # rounds in integers, which torch.export can follow for a size that is not known yet
    height, width = (
        max(1, (2 * side * tile_side + TILE_SIZE) // (2 * TILE_SIZE)) for side in images.shape[-2:]
    )
    return _resize(images, (height, width))


def _padded_in_graph(x: Tensor, stride: int, mode: str) -> tuple[Tensor, tuple[int, int]]:
    """Return what `SaltNet._padded` does, chosen in the graph by the size that an image has there.

    A condition of Python is settled while a graph is traced, for the one size that it is traced
    with; so pixels are picked by indices that follow from the size.
    """
    sides = torch.stack([torch.as_tensor(side) for side in x.shape[-2:]])
    missing = (stride - sides % stride) % stride
    if mode == "none":
        missing = missing * (sides.min() < stride)
    before = missing // 2
    for dim, (side, more, start) in enumerate(zip(sides, missing, before, strict=True), start=2):
        place, last = torch.arange(side + more) - start, side - 1
        chosen = place.clamp(min=0).minimum(last)
        if mode == "reflect":
            mirrored = last - (last - place.abs()).abs()
            chosen = torch.where((missing - before < sides).all(), mirrored, chosen)
        x = x.index_select(dim, chosen)
    return x, (before[0], before[1])  # type: ignore[return-value]  # a trace counts in tensors


def _resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(x.shape[-2:]) == size and not is_traced():
        return x
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def _ceil_div(size: int, step: int) -> int:
    return -(-size // step)


def _both(pixel_logits: Tensor, tile_logits: Tensor) -> Tensor:
    """Return the logits of the product of two probabilities, stable far from zero."""
    log_p = F.logsigmoid(pixel_logits) + F.logsigmoid(tile_logits)
    return log_p - torch.log(-torch.expm1(log_p.clamp(max=-1e-7)))
