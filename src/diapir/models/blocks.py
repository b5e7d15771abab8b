"""The parts a U-Net decoder is made of."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ConvBlock(nn.Sequential):
    """A 3x3 convolution, batch norm where asked for, and ReLU; He-normal weights.

    Source: He et al. 2015, arXiv 1502.01852, equation 10.
    """

    def __init__(self, in_channels: int, out_channels: int, *, batch_norm: bool) -> None:
        conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=not batch_norm)
        nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
        if conv.bias is not None:
            nn.init.zeros_(conv.bias)
        norm = [nn.BatchNorm2d(out_channels)] if batch_norm else []
        super().__init__(conv, *norm, nn.ReLU(inplace=True))


class ScSE(nn.Module):
    """Concurrent spatial and channel squeeze and excitation: features weighed by both gates.

    Source: Roy et al. 2018, arXiv 1803.02579.
    """

    def __init__(self, channels: int, reduction: int = 8) -> None:
        super().__init__()
        squeezed = max(channels // reduction, 4)
        self.channel = nn.Sequential(
            _MeanOverPixels(),
            nn.Conv2d(channels, squeezed, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(squeezed, channels, 1),
            nn.Sigmoid(),
        )
        self.spatial = nn.Sequential(nn.Conv2d(channels, 1, 1), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        """Return the gated features, (B, C, H, W) as given."""
        gates: Tensor = self.channel(x) + self.spatial(x)
        if self.training:  # the sum of two maps that do not tell their layout has the slow one
            gates = gates.contiguous(memory_format=torch.channels_last)
        return x * gates


class _MeanOverPixels(nn.AdaptiveAvgPool2d):
    """The mean of every channel, (B, C, 1, 1), with a gradient in the layout that CPUs like."""

    def __init__(self) -> None:
        super().__init__(1)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        return x.permute(0, 2, 3, 1).mean(dim=(1, 2))[:, :, None, None]


class Upsample(nn.Module):
    """Doubles height and width by one of three ways; `out_channels` tells what comes out.

    Transposed convolution and pixel shuffle learn the step; bilinear keeps the channels and leaves
    learning to the convolutions behind it.
    """

    def __init__(self, method: str, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.out_channels = in_channels if method == "bilinear" else out_channels
        self.upscale = _UPSAMPLERS[method](in_channels, out_channels)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Return (B, out_channels, *size); size is at most one off the doubled height and width."""
        return fit_to(self.upscale(x), size)


def _transposed(in_channels: int, out_channels: int) -> nn.Module:
    return nn.ConvTranspose2d(in_channels, out_channels, 3, stride=2, padding=1, output_padding=1)


def _bilinear(in_channels: int, out_channels: int) -> nn.Module:
    return nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)


def _pixelshuffle(in_channels: int, out_channels: int) -> nn.Module:
    conv = nn.Conv2d(in_channels, 4 * out_channels, 1)
    # ICNR: the four phases start equal, so no checkerboard (Aitken et al. 2017, arXiv 1707.02937)
    phase = nn.init.kaiming_normal_(torch.empty(out_channels, in_channels, 1, 1))
    with torch.no_grad():
        conv.weight.copy_(phase.repeat_interleave(4, dim=0))
        conv.bias.zero_()  # type: ignore[union-attr]
    return nn.Sequential(conv, nn.PixelShuffle(2))


_UPSAMPLERS = {
    "transposed": _transposed,
    "bilinear": _bilinear,
    "pixelshuffle": _pixelshuffle,
}


def fit_to(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Return (B, C, *size): cropped at the far edges where too large, edge-padded where too small.

    Encoders halve odd sizes up or down; doubling them again is then one row or column off.
    """
    height, width = size
    if x.requires_grad:  # cut as (B, H, W, C), so that the gradient has the layout that CPUs like
        x = x.permute(0, 2, 3, 1)[:, :height, :width].permute(0, 3, 1, 2)
    else:
        x = x[..., :height, :width]
    missing = (0, width - x.shape[-1], 0, height - x.shape[-2])
    return F.pad(x, missing, mode="replicate") if any(missing) or is_traced() else x


def is_traced() -> bool:
    """Whether a graph for other sizes is being made: it must not leave out what this one spares."""
    return bool(torch.jit.is_tracing())  # type: ignore[attr-defined,no-untyped-call]
