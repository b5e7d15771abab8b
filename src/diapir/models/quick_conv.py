"""Convolutions of timm's encoders that train quicker on a CPU, with the same numbers.

PyTorch's library for CPUs (oneDNN) has a fast gradient for depthwise kernels three columns wide.
Wider ones, as EfficientNets have in most blocks, get one that takes up to thirty times as long, so
it is put together here from kernels of three columns. In bf16, where everything else takes half
the time, the same holds, and the gradient of an image under a stride is slower still: that one is
taken as if there were no stride, with zeros between the values. And where 'same' padding is as
wide on both sides, the convolution pads by itself, which spares copies; so does a ReLU6 that is not
done in place, as PyTorch copies what it overwrites.

Only training on a CPU is touched: in evaluation and on other devices timm's own code runs.
"""

from typing import Any, cast

import torch
import torch.nn.functional as F
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.padding import get_same_padding
from torch import Tensor, nn

_WIDE = 3  # columns of the kernels whose gradient is fast
_HALVES = (torch.bfloat16, torch.float16)

Pair = tuple[int, int]


def train_quicker(encoder: nn.Module) -> None:
    """Let the convolutions of an encoder train quicker; names and values of parameters stay."""
    for module in encoder.modules():
        if type(module) is Conv2dSame:
            module.__class__ = _QuickConv2dSame
        elif type(module) is nn.Conv2d and _is_depthwise(module):
            module.__class__ = _QuickConv2d
        elif isinstance(module, nn.ReLU6):
            module.inplace = False


class _QuickConv2d(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        if not _trains_here(self, x):
            return super().forward(x)
        return depthwise(x, self.weight, self.bias, _pair(self.stride), _pair(self.padding))


class _QuickConv2dSame(Conv2dSame):
    def forward(self, x: Tensor) -> Tensor:
        if not _trains_here(self, x):
            return cast(Tensor, super().forward(x))  # type: ignore[no-untyped-call]
        sides = zip(x.shape[-2:], self.kernel_size, self.stride, self.dilation, strict=True)
        below, beside = (int(get_same_padding(*side)) for side in sides)
        padding = (below // 2, beside // 2)
        if below % 2 or beside % 2:
            around = (beside // 2, beside - beside // 2, below // 2, below - below // 2)
            x, padding = F.pad(x, around), (0, 0)
        if _is_depthwise(self):
            return depthwise(x, self.weight, self.bias, _pair(self.stride), padding)
        return F.conv2d(x, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)


def _pair(values: Any) -> Pair:
    rows, columns = values
    return rows, columns


def _trains_here(conv: nn.Conv2d, x: Tensor) -> bool:
    return conv.training and x.device.type == "cpu"


def _is_depthwise(conv: nn.Conv2d) -> bool:
    return (
        conv.groups == conv.in_channels == conv.out_channels
        and conv.dilation == (1, 1)
        and conv.padding_mode == "zeros"
        and not isinstance(conv.padding, str)
    )


def depthwise(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair
) -> Tensor:
    """Return `F.conv2d` of a depthwise kernel, with a quicker gradient, in autocast's dtype if any.

    Args:
        x: (B, C, H, W).
        weight: (C, 1, K, L).
        bias: (C,), or none.
        stride: Rows and columns.
        padding: Rows and columns of zeros on both sides.

    Returns:
        (B, C, H', W').
    """
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        x, weight = x.to(dtype), weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    if weight.shape[-1] <= _WIDE and x.dtype not in _HALVES:
        return F.conv2d(x, weight, bias, stride, padding, groups=len(weight))
    return cast(Tensor, _Depthwise.apply(x, weight, bias, stride, padding))


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding, ctx.has_bias = stride, padding, bias is not None
        return F.conv2d(x, weight, bias, stride, padding, groups=len(weight))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        of_x = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            of_x = _image_gradient(grad, x, weight, ctx.stride, ctx.padding)
        if ctx.needs_input_grad[1]:
            of_weight = _weight_gradient(grad, x, weight, ctx.stride, ctx.padding)
        if ctx.has_bias and ctx.needs_input_grad[2]:
            of_bias = grad.sum(dim=(0, 2, 3))
        return of_x, of_weight, of_bias, None, None


def _image_gradient(grad: Tensor, x: Tensor, weight: Tensor, stride: Pair, padding: Pair) -> Tensor:
    if max(stride) > 1 and grad.dtype in _HALVES:
        rows, columns = (
            side + 2 * pad - kernel + 1
            for side, pad, kernel in zip(x.shape[-2:], padding, weight.shape[-2:], strict=True)
        )
        batch, channels = grad.shape[:2]
        spread = grad.new_zeros((batch, rows, columns, channels)).permute(0, 3, 1, 2)
        spread[..., :: stride[0], :: stride[1]] = grad
        grad, stride = spread, (1, 1)
    return _gradients(grad, x, weight, stride, padding, of_weight=False)


def _weight_gradient(
    grad: Tensor, x: Tensor, weight: Tensor, stride: Pair, padding: Pair
) -> Tensor:
    """Return the gradient of a kernel, three of its columns at a time.

    Columns k to k + 2 of a kernel see the image from its column k on, as a kernel of three columns
    would see it.
    """
    columns, narrow = weight.shape[-1], weight[..., :_WIDE]
    if columns <= _WIDE:
        return _gradients(grad, x, weight, stride, padding, of_weight=True)
    width = (grad.shape[-1] - 1) * stride[1] + _WIDE
    found = torch.empty_like(weight)
    for first in (*range(0, columns - _WIDE, _WIDE), columns - _WIDE):
        left = padding[1] - first  # below 0 it is cut
        right = width - x.shape[-1] - left
        seen = F.pad(x, (left, right, padding[0], padding[0]))
        part = _gradients(grad, seen, narrow, stride, (0, 0), of_weight=True)
        found[..., first : first + _WIDE] = part
    return found


def _gradients(
    grad: Tensor, x: Tensor, weight: Tensor, stride: Pair, padding: Pair, *, of_weight: bool
) -> Tensor:
    wanted = [not of_weight, of_weight, False]
    found = torch.ops.aten.convolution_backward(
        grad, x, weight, None, stride, padding, (1, 1), False, (0, 0), len(weight), wanted
    )
    return cast(Tensor, found[1 if of_weight else 0])
