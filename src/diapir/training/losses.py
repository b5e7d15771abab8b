"""Segmentation losses on logits, over whole batches at once.

Every loss takes ``logits`` (B, 1, H, W) of any float dtype and ``targets`` of the same shape with 1
for salt and 0 for the rest, works in float32 whatever autocast does outside, and returns a float32
scalar. Pixels whose target equals ``ignore`` count for nothing. None of them waits for the device.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from diapir.config import LossConfig, LossStage

_IGNORED, _SALT, _BACKGROUND = 0, 1, 2
_LARGEST_INT32 = (1 << 31) - 1
_PLACE_BITS = 30
"""Of an integer that has 31 for an error and 2 for a label."""


def combined_loss(
    logits: Tensor,
    targets: Tensor,
    stage: LossStage,
    config: LossConfig,
    *,
    ignore: int | None = None,
) -> Tensor:
    """Return the weighted sum of the losses that a stage asks for.

    Args:
        logits: (B, 1, H, W), float.
        targets: (B, 1, H, W), 0 or 1, any dtype.
        stage: Weights; a loss of weight 0 is not computed.
        config: How Lovasz and Dice are taken.
        ignore: Target value of pixels that do not count.

    Returns:
        Scalar, float32.

    Raises:
        ValueError: The shapes differ.
    """
    smooth = config.dice_smooth
    lovasz = {"per_image": config.lovasz_per_image, "elu": config.lovasz_elu}
    terms = []
    if stage.bce:
        terms.append(stage.bce * bce(logits, targets, ignore=ignore))
    if stage.dice:
        terms.append(stage.dice * soft_dice(logits, targets, smooth, ignore=ignore))
    if stage.lovasz:
        loss = lovasz_hinge(logits, targets, **lovasz, ignore=ignore)
        terms.append(stage.lovasz * loss)
    if stage.symmetric_lovasz:
        loss = symmetric_lovasz(logits, targets, **lovasz, ignore=ignore)
        terms.append(stage.symmetric_lovasz * loss)
    return torch.stack(terms).sum()


def bce(logits: Tensor, targets: Tensor, *, ignore: int | None = None) -> Tensor:
    """Return the binary cross-entropy, averaged over the pixels that count.

    Args:
        logits: (B, 1, H, W), float.
        targets: (B, 1, H, W), 0 or 1 or a probability between.
        ignore: Target value of pixels that do not count.

    Returns:
        Scalar; 0 where no pixel counts.

    Raises:
        ValueError: The shapes differ.
    """
    scores, truth, valid = _rows(logits, targets, ignore)
    losses = F.binary_cross_entropy_with_logits(scores, truth, reduction="none")
    if valid is None:
        return losses.mean()
    return losses.masked_fill(~valid, 0).sum() / valid.sum().clamp(min=1)


def soft_dice(
    logits: Tensor, targets: Tensor, smooth: float = 1.0, *, ignore: int | None = None
) -> Tensor:
    """Return 1 - (2 sum(p t) + smooth) / (sum(p) + sum(t) + smooth) over the whole batch.

    The sums run over the batch, not over each tile, as in the classic system: two fifths of the
    tiles are empty, and a Dice per tile is nearly blind to how wrong a prediction on them is.

    Args:
        logits: (B, 1, H, W), float.
        targets: (B, 1, H, W), 0 or 1 or a probability between.
        smooth: Added above and below, in pixels; keeps an all-empty batch defined and its gradient
            alive.
        ignore: Target value of pixels that do not count.

    Raises:
        ValueError: The shapes differ.

    Source:
        Milletari et al. 2016, arXiv 1606.04797, section 3, without the squares below.
    """
    scores, truth, valid = _rows(logits, targets, ignore)
    probs = scores.sigmoid()
    if valid is not None:
        probs = probs.masked_fill(~valid, 0)
    overlap = (probs * truth).sum()
    return 1 - (2 * overlap + smooth) / (probs.sum() + truth.sum() + smooth)


def lovasz_hinge(
    logits: Tensor,
    targets: Tensor,
    *,
    per_image: bool = True,
    elu: bool = False,
    ignore: int | None = None,
) -> Tensor:
    """Return the Lovasz hinge, the convex surrogate of 1 - IoU of the salt.

    Args:
        logits: (B, 1, H, W), float.
        targets: (B, 1, H, W), salt where above 0.5.
        per_image: Take the mean of the tiles' losses, as the competition does; otherwise the batch
            counts as one large tile.
        elu: Let a pixel that is right by more than the margin m of 1 have the error exp(1 - m) in
            place of the hinge's 0. It goes on learning, less and less, and the loss is no longer
            exactly a surrogate of 1 - IoU. For pixels within the margin, 1 is added to the error.
        ignore: Target value of pixels that do not count; a tile without any other has a loss of 0.

    Raises:
        ValueError: The shapes differ.

    Source:
        Berman et al. 2018, arXiv 1705.08790, definition 2 (equations 8 and 9) and algorithm 1,
        with the hinge errors of its binary case.
    """
    errors, labels = _errors(logits, targets, per_image, elu, ignore)
    with torch.no_grad():
        order, labels = _worst_first(errors, labels)
        steps = _put_back(_jaccard_steps(labels == _SALT), order)
    return (errors * steps).sum(dim=1).mean()


def symmetric_lovasz(
    logits: Tensor,
    targets: Tensor,
    *,
    per_image: bool = True,
    elu: bool = False,
    ignore: int | None = None,
) -> Tensor:
    """Return the mean of the Lovasz hinge of the salt and that of the background.

    It equals the mean of `lovasz_hinge` on (logits, targets) and on (-logits, 1 - targets). A
    pixel's hinge error is the same in both, so that one sort serves both.

    Args:
        logits: (B, 1, H, W), float.
        targets: (B, 1, H, W), salt where above 0.5.
        per_image: Take the mean of the tiles' losses; otherwise the batch counts as one large tile.
        elu: As in `lovasz_hinge`.
        ignore: Target value of pixels that do not count; a tile without any other has a loss of 0.

    Raises:
        ValueError: The shapes differ.

    Source:
        Berman et al. 2018, arXiv 1705.08790; both signs as the competition's teams combined them.
    """
    errors, labels = _errors(logits, targets, per_image, elu, ignore)
    with torch.no_grad():
        order, labels = _worst_first(errors, labels)
        steps = _jaccard_steps(labels == _SALT).add_(_jaccard_steps(labels == _BACKGROUND))
        steps = _put_back(steps.div_(2), order)
    return (errors * steps).sum(dim=1).mean()


def _errors(
    logits: Tensor, targets: Tensor, per_image: bool, elu: bool, ignore: int | None
) -> tuple[Tensor, Tensor]:
    """Return errors, float32 and not negative, and labels, uint8, of R tiles, both (R, P)."""
    scores, truth, valid = _rows(logits, targets, ignore)
    salt = truth > 0.5
    labels = torch.full_like(salt, _BACKGROUND, dtype=torch.uint8).masked_fill_(salt, _SALT)
    wrong = (scores * (1 - 2 * salt.float())).add_(1)
    # Clipping at 0 before the sort changes nothing: what is clipped comes last and adds nothing.
    errors = wrong.relu()
    if elu:  # in ELU + 1 as it is written, a small one loses most of its digits next to the 1
        errors = errors + wrong.clamp(max=0).exp()
    if valid is not None:
        errors, labels = errors.masked_fill(~valid, 0), labels.masked_fill(~valid, _IGNORED)
    return (errors, labels) if per_image else (errors.reshape(1, -1), labels.reshape(1, -1))


def _worst_first(errors: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the order that sorts each row by falling error, and the labels in that order.

    The bits of a float32 that is not negative rise with it. Error, label and place so fit into one
    integer, and whoever has the sorted integers has all three. On a CPU NumPy sorts them, in the
    widest instructions of the processor and several times faster than torch; elsewhere the row
    takes the place's place, and one flat sort does all rows.

    Args:
        errors: (R, P) float32, not negative; a NaN may sort anywhere, it makes any loss NaN.
        labels: (R, P) uint8 in 0..3.

    Returns:
        The place in its row of each pixel, int64, and the labels, both (R, P).
    """
    rows, pixels = errors.shape
    keys = (_LARGEST_INT32 - errors.detach().view(torch.int32)).long().mul_(4).add_(labels)
    if keys.device.type == "cpu" and pixels <= 1 << _PLACE_BITS:
        keys.bitwise_left_shift_(_PLACE_BITS).add_(torch.arange(pixels))
        keys.numpy().sort(axis=1)
        place = keys & ((1 << _PLACE_BITS) - 1)
        return place, keys.bitwise_right_shift_(_PLACE_BITS).bitwise_and_(3)
    row = torch.arange(rows, device=keys.device)[:, None]
    keys, order = keys.add_(row << 33).flatten().sort()
    return order.view_as(labels) - row * pixels, keys.bitwise_and_(3).view_as(labels)


def _put_back(steps: Tensor, order: Tensor) -> Tensor:
    return torch.empty_like(steps).scatter_(1, order, steps)


def _jaccard_steps(member: Tensor) -> Tensor:
    """Return by how much 1 - IoU rises as each pixel in turn joins the wrong ones.

    The usual code subtracts neighbouring values of 1 - IoU, which in float32 leaves three or four
    digits of a step of 1e-4. The difference has a closed form: with intersection I and union U
    after the step, a member adds 1 / U and any other pixel adds I / (U (U - 1)).

    Args:
        member: (R, P) bool, the pixels of the class in the order in which they become wrong.

    Returns:
        (R, P) float32, not negative; each row sums to 1.
    """
    # Counts in integers: exact at any size, and on CUDA only integers cumulate deterministically.
    members = member.sum(dim=1, keepdim=True, dtype=torch.int32)
    position = torch.arange(1, member.shape[1] + 1, dtype=torch.int32, device=member.device)
    intersection = members - member.cumsum(dim=1, dtype=torch.int32)
    union = (intersection + position).float()
    steps = intersection / (union - 1).clamp_(min=1)
    steps = steps.masked_fill_(member, 1).div_(union)
    # Without members IoU falls from 1 to 0 with the first wrong pixel.
    steps[:, :1].masked_fill_(members == 0, 1)
    return steps


def _rows(
    logits: Tensor, targets: Tensor, ignore: int | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return scores and targets as float32 (B, P), and which pixels count (None: all)."""
    if logits.shape != targets.shape:
        # (B, 1, H, W) against (B, H, W) would broadcast to (B, B, H, W) without a word.
        raise ValueError(
            f"logits {tuple(logits.shape)} and targets {tuple(targets.shape)} must have one shape"
        )
    scores = logits.float().flatten(1)
    truth = targets.flatten(1)
    valid = None if ignore is None else truth != ignore
    truth = truth.float()
    return scores, truth if valid is None else truth.masked_fill(~valid, 0), valid
