"""The losses against their definitions and an independent library, in values and gradients."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from segmentation_models_pytorch.losses import DiceLoss, LovaszLoss
from torch.utils._python_dispatch import TorchDispatchMode

from diapir.config import LossConfig, LossStage
from diapir.metrics.score import iou, tile_counts
from diapir.training import losses
from diapir.training.losses import (
    bce,
    combined_loss,
    lovasz_hinge,
    soft_dice,
    symmetric_lovasz,
)

IGNORE = 255


def make_batch(kind, tiles=6, height=13, width=17, seed=0):
    """Return logits and targets (B, 1, H, W); random logits have no two equal errors."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(tiles, 1, height, width, generator=generator)
    targets = (torch.rand(logits.shape, generator=generator) < 0.3).float()
    if kind == "empty":
        targets.zero_()
    elif kind == "full":
        targets.fill_(1)
    elif kind == "mixed":
        targets[0], targets[1] = 0, 1
        targets[2].zero_()[..., 5, 5] = 1
        # right by more than the margin: without ELU no loss, no gradient
        logits[3] = (9 + torch.rand(targets[3].shape, generator=generator)) * (2 * targets[3] - 1)
    return logits, targets


KINDS = ("random", "empty", "full", "mixed")


def with_ignored(targets, seed=1):
    marked = targets.clone()
    marked[torch.rand(targets.shape, generator=torch.Generator().manual_seed(seed)) < 0.25] = IGNORE
    marked[-1] = IGNORE
    return marked


def value_and_gradient(loss, logits, *args, **options):
    leaf = logits.clone().requires_grad_()
    value = loss(leaf, *args, **options)
    value.backward()
    return value.detach(), leaf.grad


def lovasz_by_definition(logits, targets, per_image=True, elu=False, ignore=None):
    """The Lovasz extension of 1 - IoU with sets of pixels, one tile after the other, in float64.

    Berman et al. 2018, equations 8 and 9: sort the errors m; the weight of the i-th is what the
    Jaccard loss of the wrongly labelled set gains as the i-th pixel joins it.
    """

    def jaccard_loss(wrong, salt):
        union = len(salt | wrong)
        return 1 - len(salt - wrong) / union if union else 0

    tiles = zip(logits, targets, strict=True) if per_image else [(logits, targets)]
    values = []
    for scores, truth in tiles:
        keep = truth.flatten() != (torch.nan if ignore is None else ignore)
        scores, truth = scores.flatten()[keep].double(), truth.flatten()[keep].double()
        errors = 1 - scores * (2 * truth - 1)
        salt = set(np.flatnonzero(truth.numpy()).tolist())
        wrong, before, value = set(), 0, scores.sum() * 0
        for pixel in errors.detach().argsort(descending=True).tolist():
            wrong.add(pixel)
            after = jaccard_loss(wrong, salt)
            error = F.elu(errors[pixel]) + 1 if elu else errors[pixel].relu()
            value = value + error * (after - before)
            before = after
        values.append(value)
    return torch.stack(values).mean()


# --- Lovasz ---


@pytest.mark.parametrize("ignore", [None, IGNORE])
@pytest.mark.parametrize("elu", [True, False])
@pytest.mark.parametrize("per_image", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_lovasz_is_its_definition(kind, per_image, elu, ignore):
    logits, targets = make_batch(kind)
    if ignore:
        targets = with_ignored(targets)
    options = {"per_image": per_image, "elu": elu, "ignore": ignore}
    value, gradient = value_and_gradient(lovasz_hinge, logits, targets, **options)
    expected, expected_gradient = value_and_gradient(
        lovasz_by_definition, logits.double(), targets, **options
    )
    torch.testing.assert_close(value, expected.float(), rtol=1e-5, atol=1e-6)
    # Relative: the closed form keeps the digits that subtracting neighbours in float32 loses.
    torch.testing.assert_close(gradient, expected_gradient.float(), rtol=2e-6, atol=0)


@pytest.mark.parametrize("ignore", [None, IGNORE])
@pytest.mark.parametrize("per_image", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_lovasz_is_that_of_segmentation_models_pytorch(kind, per_image, ignore):
    logits, targets = make_batch(kind, tiles=5, height=101, width=101)
    if ignore:
        targets = with_ignored(targets)
    library = LovaszLoss("binary", per_image=per_image, ignore_index=ignore)
    value, gradient = value_and_gradient(
        lovasz_hinge, logits, targets, per_image=per_image, ignore=ignore
    )
    expected, expected_gradient = value_and_gradient(library, logits, targets)
    torch.testing.assert_close(value, expected.reshape(()), rtol=2e-5, atol=1e-6)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-4, atol=2e-7)


@pytest.mark.parametrize("ignore", [None, IGNORE])
@pytest.mark.parametrize("elu", [True, False])
@pytest.mark.parametrize("per_image", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_symmetric_lovasz_is_the_mean_of_both_signs(kind, per_image, elu, ignore):
    logits, targets = make_batch(kind)
    if ignore:
        targets = with_ignored(targets)
    flipped = torch.where(targets == IGNORE, targets, 1 - targets)
    options = {"per_image": per_image, "elu": elu, "ignore": ignore}

    def mean_of_both(x):
        there, back = lovasz_hinge(x, targets, **options), lovasz_hinge(-x, flipped, **options)
        return (there + back) / 2

    value, gradient = value_and_gradient(symmetric_lovasz, logits, targets, **options)
    expected, expected_gradient = value_and_gradient(mean_of_both, logits)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-5, atol=1e-9)
    back, back_gradient = value_and_gradient(symmetric_lovasz, -logits, flipped, **options)
    torch.testing.assert_close(value, back)
    torch.testing.assert_close(gradient, -back_gradient, rtol=1e-5, atol=1e-9)


mask_pairs = hnp.array_shapes(min_dims=3, max_dims=3, max_side=6).flatmap(
    lambda shape: st.tuples(hnp.arrays(bool, shape), hnp.arrays(bool, shape))
)


@given(mask_pairs)
def test_lovasz_of_logits_at_one_is_twice_one_minus_iou(pair):
    # At the corners the extension is the set function itself; a wrong pixel's error there is 2.
    pred, truth = pair
    logits = torch.from_numpy(np.where(pred, 1.0, -1.0))[:, None]
    targets = torch.from_numpy(truth)[:, None]
    counts = tile_counts(pred, truth)
    per_tile = lovasz_hinge(logits, targets)
    assert float(per_tile) == pytest.approx(2 * (1 - iou(counts)).mean(), abs=1e-6)
    pooled = lovasz_hinge(logits, targets, per_image=False)
    assert float(pooled) == pytest.approx(2 * (1 - iou(counts.pooled())), abs=1e-6)
    both = (iou(counts) + iou(tile_counts(~pred, ~truth))) / 2
    assert float(symmetric_lovasz(logits, targets)) == pytest.approx(
        2 * (1 - both).mean(), abs=1e-6
    )


def test_lovasz_of_an_empty_tile_is_its_worst_error():
    logits, targets = make_batch("empty", tiles=1)
    value, gradient = value_and_gradient(lovasz_hinge, logits, targets)
    assert float(value) == pytest.approx(float(logits.max()) + 1)
    assert gradient.flatten()[logits.argmax()] == 1
    assert gradient.count_nonzero() == 1


def test_lovasz_of_a_full_tile_is_its_mean_error():
    logits, targets = make_batch("full", tiles=1)
    assert float(lovasz_hinge(logits, targets)) == pytest.approx(float((1 - logits).relu().mean()))


@given(hnp.arrays(bool, st.tuples(st.integers(1, 5), st.integers(1, 30))))
def test_jaccard_steps_are_weights_that_sum_to_one(member):
    steps = losses._jaccard_steps(torch.from_numpy(member))
    assert (steps >= 0).all()
    torch.testing.assert_close(steps.sum(dim=1), torch.ones(len(member)))


@pytest.fixture(params=["numpy", "torch"])
def sorted_by(request, monkeypatch):
    """What sorts: NumPy, as on a CPU, or torch, as on a card and for rows beyond its places."""
    if request.param == "torch":
        monkeypatch.setattr(losses, "_PLACE_BITS", 0)
    return request.param


def test_rows_of_any_size_are_sorted_apart(sorted_by):
    generator = torch.Generator().manual_seed(0)
    errors = (
        torch.rand(7, 50, generator=generator) * torch.tensor(10.0) ** torch.arange(-3, 4)[:, None]
    )
    errors[2], errors[3, ::2] = 0, torch.inf
    labels = torch.randint(3, errors.shape, generator=generator).to(torch.uint8)
    order, sorted_labels = losses._worst_first(errors, labels)
    assert (order.sort(dim=1).values == torch.arange(50)).all()
    expected = errors.sort(dim=1, descending=True).values
    torch.testing.assert_close(errors.gather(1, order), expected, rtol=0, atol=0)
    torch.testing.assert_close(labels.gather(1, order), sorted_labels.to(torch.uint8))


@pytest.mark.parametrize("per_image", [True, False])
def test_numpy_and_torch_sort_alike_up_to_ties(per_image, monkeypatch):
    logits, targets = make_batch("mixed")
    logits = logits.round(decimals=1)  # many errors are the same
    by_numpy = value_and_gradient(symmetric_lovasz, logits, targets, per_image=per_image)
    monkeypatch.setattr(losses, "_PLACE_BITS", 0)
    by_torch = value_and_gradient(symmetric_lovasz, logits, targets, per_image=per_image)
    torch.testing.assert_close(by_numpy[0], by_torch[0])
    # pixels with the same error and label share their steps in either order
    torch.testing.assert_close(
        *(found[1].flatten().sort().values for found in (by_numpy, by_torch))
    )


@pytest.mark.parametrize("loss", [lovasz_hinge, symmetric_lovasz])
@pytest.mark.parametrize("per_image", [True, False])
def test_one_sort_serves_the_whole_batch(loss, per_image, monkeypatch):
    monkeypatch.setattr(losses, "_PLACE_BITS", 0)  # as on a card

    class CountSorts(TorchDispatchMode):
        sorts = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.sorts += "sort" in str(func)
            return func(*args, **(kwargs or {}))

    with CountSorts() as counter:
        loss(*make_batch("mixed"), per_image=per_image)
    assert counter.sorts == 1


# --- BCE and Dice ---


@pytest.mark.parametrize("kind", KINDS)
def test_bce_is_that_of_torch(kind):
    logits, targets = make_batch(kind)
    value, gradient = value_and_gradient(bce, logits, targets.long())
    expected = value_and_gradient(F.binary_cross_entropy_with_logits, logits, targets)
    torch.testing.assert_close((value, gradient), expected)


@pytest.mark.parametrize("kind", ["random", "full", "mixed"])
def test_dice_is_that_of_segmentation_models_pytorch(kind):
    # Without smoothing: what the library adds below and above differs between its versions.
    logits, targets = make_batch(kind)
    ours = value_and_gradient(soft_dice, logits, targets, 0.0)
    library = value_and_gradient(DiceLoss("binary", smooth=0.0), logits, targets)
    torch.testing.assert_close(ours, library, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("smooth", [1e-3, 1.0, 10.0])
@pytest.mark.parametrize("kind", KINDS)
def test_dice_is_its_definition(kind, smooth):
    def definition(x, y):
        probs = 1 / (1 + torch.exp(-x))
        return 1 - (2 * (probs * y).sum() + smooth) / (probs.sum() + y.sum() + smooth)

    logits, targets = make_batch(kind)
    value, gradient = value_and_gradient(soft_dice, logits, targets, smooth)
    expected, expected_gradient = value_and_gradient(definition, logits.double(), targets)
    torch.testing.assert_close(value, expected.float(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient, expected_gradient.float(), rtol=1e-4, atol=1e-9)


def test_dice_of_an_empty_batch_still_pushes_down():
    # The library returns 0 without a gradient here; the classic system's Dice does not.
    logits, targets = make_batch("empty")
    value, gradient = value_and_gradient(soft_dice, logits, targets)
    assert float(value) == pytest.approx(1 - 1 / (float(logits.sigmoid().sum()) + 1))
    assert (gradient > 0).all()


def test_soft_targets_are_kept_by_bce_and_dice():
    logits, targets = make_batch("random")
    soft = targets * 0.8 + 0.1
    torch.testing.assert_close(bce(logits, soft), F.binary_cross_entropy_with_logits(logits, soft))
    assert float(soft_dice(logits, soft)) != float(soft_dice(logits, targets))


# --- what all share ---


def all_losses():
    everything = LossStage(bce=0.2, dice=0.3, lovasz=0.4, symmetric_lovasz=0.5)
    return {
        "bce": bce,
        "dice": soft_dice,
        "lovasz": lovasz_hinge,
        "lovasz per batch": lambda x, y, **o: lovasz_hinge(x, y, per_image=False, **o),
        "lovasz elu": lambda x, y, **o: lovasz_hinge(x, y, elu=True, **o),
        "symmetric": symmetric_lovasz,
        "combined": lambda x, y, **o: combined_loss(x, y, everything, LossConfig(), **o),
    }


each_loss = pytest.mark.parametrize("loss", all_losses().values(), ids=all_losses().keys())


@each_loss
def test_ignored_pixels_count_for_nothing(loss):
    logits, targets = make_batch("random")
    cut, cut_targets = logits[..., :9].contiguous(), targets[..., :9].contiguous()
    targets[..., 9:] = IGNORE
    value, gradient = value_and_gradient(loss, logits, targets, ignore=IGNORE)
    expected, expected_gradient = value_and_gradient(loss, cut, cut_targets)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradient[..., :9], expected_gradient)
    assert not gradient[..., 9:].any()


@each_loss
def test_ignoring_what_is_not_there_changes_nothing(loss):
    logits, targets = make_batch("mixed")
    torch.testing.assert_close(
        value_and_gradient(loss, logits, targets, ignore=IGNORE),
        value_and_gradient(loss, logits, targets),
    )


@each_loss
def test_a_batch_of_ignored_pixels_has_no_loss_and_no_gradient(loss):
    logits, targets = make_batch("random")
    value, gradient = value_and_gradient(
        loss, logits, torch.full_like(targets, IGNORE), ignore=IGNORE
    )
    assert value == 0
    assert not gradient.any()


@each_loss
@pytest.mark.parametrize("kind", ["empty", "full"])
def test_one_sided_batches_have_finite_losses_that_go_down(loss, kind):
    logits, targets = make_batch(kind)
    value, gradient = value_and_gradient(loss, logits, targets)
    assert torch.isfinite(gradient).all()
    assert loss(logits - 0.1 * gradient.sign(), targets) < value


@each_loss
def test_confident_and_right_costs_nothing_and_wrong_costs_more(loss):
    logits, targets = make_batch("random")
    sure = 40 * (2 * targets - 1)
    assert float(loss(sure, targets)) == pytest.approx(0, abs=1e-6)
    assert loss(-sure, targets) > loss(logits, targets) > 0


@each_loss
def test_works_in_float32_under_autocast(loss):
    logits, targets = make_batch("mixed")
    half = logits.bfloat16()
    expected, expected_gradient = value_and_gradient(loss, half.float(), targets)
    with torch.autocast("cpu", torch.bfloat16):
        value, gradient = value_and_gradient(loss, half, targets)
    assert value.dtype == torch.float32
    assert gradient.dtype == torch.bfloat16
    torch.testing.assert_close(value, expected, rtol=0, atol=0)
    torch.testing.assert_close(gradient, expected_gradient.bfloat16())


@each_loss
@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float64])
def test_targets_of_any_dtype_are_the_same(loss, dtype):
    logits, targets = make_batch("mixed")
    assert loss(logits, targets.to(dtype)) == loss(logits, targets)


@each_loss
def test_memory_layout_changes_nothing(loss):
    logits, targets = make_batch("mixed")
    expected, expected_gradient = value_and_gradient(loss, logits, targets)
    for order in ((3, 2, 1, 0), (0, 1, 3, 2), (2, 0, 1, 3)):
        back = np.argsort(order).tolist()
        strided = [x.permute(order).contiguous().permute(back) for x in (logits, targets)]
        assert not strided[0].is_contiguous()
        value, gradient = value_and_gradient(loss, *strided)
        torch.testing.assert_close(value, expected)
        torch.testing.assert_close(gradient, expected_gradient)


@each_loss
def test_the_device_is_never_waited_for(loss):
    # A tensor on "meta" has no values: whatever asks for one, such as .item(), fails.
    logits, targets = (x.to("meta") for x in make_batch("random"))
    value, gradient = value_and_gradient(loss, logits, targets, ignore=IGNORE)
    assert value.shape == ()
    assert gradient.shape == logits.shape


@each_loss
def test_nan_does_not_hide(loss):
    logits, targets = make_batch("random")
    for sign in (1.0, -1.0):
        logits[2, 0, 3, 4] = torch.copysign(torch.tensor(torch.nan), torch.tensor(sign))
        assert torch.isnan(loss(logits, targets))


@each_loss
def test_targets_without_channel_are_refused(loss):
    logits, targets = make_batch("random")
    with pytest.raises(ValueError, match=r"\(6, 1, 13, 17\).*\(6, 13, 17\)"):
        loss(logits, targets.squeeze(1))


# --- the recipe's sum ---


def test_the_classic_sum():
    logits, targets = make_batch("mixed")
    stage = LossConfig().stages[0]
    expected = (
        0.7 * lovasz_hinge(logits, targets)
        + 0.15 * bce(logits, targets)
        + 0.15 * soft_dice(logits, targets, 1.0)
    )
    torch.testing.assert_close(combined_loss(logits, targets, stage, LossConfig()), expected)


@pytest.mark.parametrize(
    ("stage", "config", "expected"),
    [
        ({"bce": 2.0}, {}, lambda x, y: 2 * bce(x, y)),
        ({"dice": 1.5}, {"dice_smooth": 7.0}, lambda x, y: 1.5 * soft_dice(x, y, 7.0)),
        (
            {"lovasz": 1.0},
            {"lovasz_per_image": False},
            lambda x, y: lovasz_hinge(x, y, per_image=False),
        ),
        ({"symmetric_lovasz": 0.5}, {}, lambda x, y: 0.5 * symmetric_lovasz(x, y)),
        (
            {"symmetric_lovasz": 1.0},
            {"lovasz_per_image": False},
            lambda x, y: symmetric_lovasz(x, y, per_image=False),
        ),
        (
            {"lovasz": 1.0, "symmetric_lovasz": 1.0},
            {"lovasz_elu": True},
            lambda x, y: lovasz_hinge(x, y, elu=True) + symmetric_lovasz(x, y, elu=True),
        ),
    ],
)
def test_every_setting_reaches_its_loss(stage, config, expected):
    logits, targets = make_batch("mixed")
    value = combined_loss(logits, targets, LossStage(**stage), LossConfig(**config))
    torch.testing.assert_close(value, expected(logits, targets))


def test_a_loss_of_weight_zero_is_not_computed(monkeypatch):
    def fail(*args, **options):
        raise AssertionError

    monkeypatch.setattr(losses, "lovasz_hinge", fail)
    monkeypatch.setattr(losses, "symmetric_lovasz", fail)
    assert combined_loss(*make_batch("random"), LossStage(bce=1, dice=1), LossConfig()) > 0
