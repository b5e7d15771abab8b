"""Random changes to whole batches of tiles and their masks, on whatever device they are."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from diapir.config import AugmentConfig

_POINTS = 5
"""Points along a side whose displacement is drawn: layers bend over a quarter of a tile."""


def augment_batch(
    images: Tensor, masks: Tensor, config: AugmentConfig, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return a changed copy of a batch; image and masks move together.

    Args:
        images: (B, 1, H, W) float in 0..1.
        masks: (B, C, H, W) float; the first channel holds 0 and 1 and does so afterwards, further
            ones probabilities of salt.
        config: Ranges of the changes.
        generator: Source of every random number, on the batch's device.

    Returns:
        Images and masks as given in shape, dtype and range.
    """
    draw = _Draw(len(images), config.probability, generator)
    if _moves(config):
        images, masks = _move(images, masks, config, draw)
    elif config.flip:
        mirrored = draw.chance(config.flip).view(-1, 1, 1, 1)
        images = torch.where(mirrored, images.flip(3), images)
        masks = torch.where(mirrored, masks.flip(3), masks)
    return _recolour(images, config, draw), masks


class _Draw:
    """Random numbers, one a tile."""

    def __init__(self, batch: int, probability: float, generator: torch.Generator) -> None:
        self.batch, self.probability, self.generator = batch, probability, generator

    def chance(self, probability: float) -> Tensor:
        return self._uniform() < probability

    def between(self, limit: float) -> Tensor:
        """Return (B,) values in -limit..limit, 0 for the tiles that are left alone."""
        values = (2 * self._uniform() - 1) * limit
        return values * (self._uniform() < self.probability)

    def points(self, channels: int, side: int) -> Tensor:
        """Return (B, channels, side, side) values in -1..1."""
        shape = (self.batch, channels, side, side)
        return 2 * torch.rand(shape, generator=self.generator, device=self.generator.device) - 1

    def noise_like(self, images: Tensor) -> Tensor:
        return torch.randn(images.shape, generator=self.generator, device=images.device)

    def _uniform(self) -> Tensor:
        return torch.rand(self.batch, generator=self.generator, device=self.generator.device)


def _moves(config: AugmentConfig) -> bool:
    still = (config.zoom, config.shift, config.rotate_degrees, config.shear_degrees)
    return any((*still, config.elastic))


def _move(
    images: Tensor, masks: Tensor, config: AugmentConfig, draw: _Draw
) -> tuple[Tensor, Tensor]:
    """Apply one map a tile: mirror, zoom, rotate, shear, shift, bend; borders are reflected."""
    mirror = 1 - 2 * draw.chance(config.flip).float()
    zoom_y, zoom_x = 1 + draw.between(config.zoom), 1 + draw.between(config.zoom)
    angle = draw.between(math.radians(config.rotate_degrees))
    # shear and shift are in the unit of affine_grid, in which a tile reaches from -1 to 1
    shear = draw.between(math.tan(math.radians(config.shear_degrees)))
    shift_x, shift_y = 2 * draw.between(config.shift), 2 * draw.between(config.shift)
    cos, sin = angle.cos(), angle.sin()
    maps = torch.stack(
        [
            torch.stack([mirror * zoom_x * cos, mirror * zoom_x * (shear * cos - sin), shift_x], 1),
            torch.stack([zoom_y * sin, zoom_y * (shear * sin + cos), shift_y], 1),
        ],
        dim=1,
    )
    grid = F.affine_grid(maps.to(images), list(images.shape), align_corners=False)
    if config.elastic:
        grid = grid + _bends(images, config.elastic, draw).to(grid)
    both = torch.cat([images, masks], dim=1)
    both = F.grid_sample(both, grid, padding_mode="reflection", align_corners=False)
    moved = both[:, 1:]
    moved[:, 0] = (moved[:, 0] > 0.5).to(masks.dtype)
    return both[:, :1], moved


def _bends(images: Tensor, elastic: float, draw: _Draw) -> Tensor:
    """Return (B, H, W, 2) smooth displacements for a sampling grid, at most `elastic` of the side.

    Random displacements of a few points, joined by cubic splines: layers bend, but do not fold
    over, as a spline between points a quarter of the side apart rises by less than its width.
    """
    points = draw.points(2, _POINTS)
    strength = draw.between(2 * elastic).view(-1, 1, 1, 1)  # a tile reaches from -1 to 1
    size = (images.shape[-2], images.shape[-1])
    smooth = F.interpolate(strength * points, size=size, mode="bicubic", align_corners=True)
    return smooth.permute(0, 2, 3, 1)


def _recolour(images: Tensor, config: AugmentConfig, draw: _Draw) -> Tensor:
    if config.contrast:
        factor = 1 + draw.between(config.contrast).view(-1, 1, 1, 1)
        mean = images.mean(dim=(2, 3), keepdim=True)
        images = mean + (images - mean) * factor
    if config.brightness:
        images = images + draw.between(config.brightness).view(-1, 1, 1, 1)
    if config.noise:
        deviation = draw.between(config.noise).abs().view(-1, 1, 1, 1)
        images = images + deviation * draw.noise_like(images)
    return images.clamp(0, 1)
