"""Augmentation: image and mask move together, ranges hold, seeds repeat."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from diapir.config import AugmentConfig
from diapir.data.augment import augment_batch

OFF: dict[str, float] = {"flip": 0.0, "brightness": 0.0, "zoom": 0.0}


def batch(count: int = 16, size: int = 32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    masks = torch.zeros(count, 1, size, size)
    for place in range(count):
        top, left = torch.randint(4, size // 2, (2,), generator=generator)
        masks[place, 0, top : top + 9, left : left + 7] = 1
    return masks * 0.8 + 0.1, masks


def augmented(
    images: Tensor, masks: Tensor, seed: int = 0, **changes: Any
) -> tuple[Tensor, Tensor]:
    config = AugmentConfig(**(OFF | changes))
    return augment_batch(images, masks, config, torch.Generator().manual_seed(seed))


def test_all_off_changes_nothing() -> None:
    images, masks = batch()
    new_images, new_masks = augmented(images, masks)
    assert torch.equal(new_images, images)
    assert torch.equal(new_masks, masks)


def test_probability_zero_is_the_identity_even_when_moved() -> None:
    images, masks = batch()
    new_images, new_masks = augmented(
        images,
        masks,
        probability=0.0,
        zoom=0.5,
        shift=0.3,
        rotate_degrees=20,
        shear_degrees=20,
        elastic=0.08,
        brightness=0.5,
        contrast=0.5,
        noise=0.5,
    )
    torch.testing.assert_close(new_images, images, atol=1e-5, rtol=0)
    assert torch.equal(new_masks, masks)


@pytest.mark.parametrize("moving", [{}, {"shift": 1e-9}])
def test_certain_flip_mirrors_left_and_right(moving: dict[str, float]) -> None:
    images, masks = batch()
    new_images, new_masks = augmented(images, masks, flip=1.0, **moving)
    torch.testing.assert_close(new_images, images.flip(3), atol=1e-5, rtol=0)
    assert torch.equal(new_masks, masks.flip(3))


def test_half_of_the_tiles_are_flipped() -> None:
    images = torch.linspace(0, 1, 8).expand(2000, 1, 8, 8)
    found, _ = augmented(images, images.round(), flip=0.5)
    assert (found[:, 0, 0, 0] > 0.5).float().mean().item() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(
    "changes",
    [
        {"flip": 0.5},
        {"zoom": 0.3},
        {"shift": 0.3},
        {"rotate_degrees": 30},
        {"shear_degrees": 30},
        {"elastic": 0.08},
        {"flip": 0.5, "zoom": 0.2, "shift": 0.2, "rotate_degrees": 20, "shear_degrees": 10},
    ],
    ids=lambda changes: "+".join(changes),
)
def test_image_and_mask_move_together(changes: dict[str, float]) -> None:
    images, masks = batch()
    new_images, new_masks = augmented(images, masks, **changes)
    assert not torch.equal(new_masks, masks)
    # the image is bright on salt: where it is brighter than half way, there is salt
    assert torch.equal(new_images > 0.5, new_masks > 0.5)
    assert set(new_masks.unique().tolist()) <= {0.0, 1.0}


def test_shift_stays_within_its_limit() -> None:
    masks = torch.zeros(200, 1, 41, 41)
    masks[:, 0, 20, 20] = 1
    masks[:, 0, 19:22, 19:22] = 1
    _, moved = augmented(masks, masks, shift=0.1)
    rows, columns = torch.arange(41.0).view(-1, 1), torch.arange(41.0)
    mass = moved.sum(dim=(1, 2, 3))
    dy = (moved[:, 0] * rows).sum(dim=(1, 2)) / mass - 20
    dx = (moved[:, 0] * columns).sum(dim=(1, 2)) / mass - 20
    for distance in (dy, dx):
        assert distance.abs().max() <= 4.1 + 0.5
        assert distance.abs().max() > 3
        assert distance.mean().abs() < 0.6


def test_zoom_stays_within_its_limit() -> None:
    masks = torch.zeros(200, 1, 64, 64)
    masks[:, 0, 16:48, 16:48] = 1
    _, moved = augmented(masks, masks, zoom=0.2)
    sides = moved[:, 0].amax(dim=2).sum(dim=1)
    assert sides.min() >= 32 / 1.2 - 1
    assert sides.max() <= 32 / 0.8 + 1
    assert sides.max() - sides.min() > 8


def test_brightness_adds_within_its_limit() -> None:
    images = torch.full((500, 1, 4, 4), 0.5)
    found, _ = augmented(images, images.round(), brightness=0.2)
    assert found.amin().item() == pytest.approx(0.3, abs=0.01)
    assert found.amax().item() == pytest.approx(0.7, abs=0.01)
    assert (found.amax(dim=(1, 2, 3)) == found.amin(dim=(1, 2, 3))).all()  # one value a tile


def test_contrast_keeps_the_mean() -> None:
    images = 0.4 + 0.2 * torch.rand(50, 1, 8, 8)
    found, _ = augmented(images, images.round(), contrast=0.5)
    torch.testing.assert_close(found.mean(dim=(2, 3)), images.mean(dim=(2, 3)))
    ratio = found.std(dim=(2, 3)) / images.std(dim=(2, 3))
    assert 0.5 <= ratio.min() < 0.7
    assert 1.3 < ratio.max() <= 1.5


def test_noise_differs_from_pixel_to_pixel() -> None:
    images = torch.full((50, 1, 32, 32), 0.5)
    found, masks = augmented(images, images.round(), noise=0.05)
    spread = found.std(dim=(2, 3))
    assert spread.max() < 0.06
    assert spread.max() > 0.03
    assert torch.equal(masks, images.round())


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1000),
    strength=st.floats(0.05, 0.9),
    shape=st.tuples(st.integers(1, 4), st.integers(1, 40), st.integers(1, 40)),
)
def test_shape_dtype_range_and_seed(seed: int, strength: float, shape: tuple[int, ...]) -> None:
    count, height, width = shape
    images = torch.rand(count, 1, height, width)
    masks = (images > 0.5).float()
    changes = dict.fromkeys(("flip", "brightness", "contrast", "zoom", "shift", "noise"), strength)
    degrees = {"rotate_degrees": 45 * strength, "shear_degrees": 45 * strength}
    found = augmented(images, masks, seed, **changes, **degrees)
    for tensor in found:
        assert tensor.shape == images.shape
        assert tensor.dtype == torch.float32
        assert tensor.min() >= 0
        assert tensor.max() <= 1
    again = augmented(images, masks, seed, **changes, **degrees)
    assert all(torch.equal(a, b) for a, b in zip(found, again, strict=True))


def test_other_seed_gives_other_tiles_and_leaves_torch_alone() -> None:
    images, masks = batch()
    state = torch.get_rng_state()
    a, _ = augmented(images, masks, 1, brightness=0.3)
    b, _ = augmented(images, masks, 2, brightness=0.3)
    assert not torch.equal(a, b)
    assert torch.equal(torch.get_rng_state(), state)


def test_elastic_bends_layers_without_folding_them() -> None:
    side, elastic = 65, 0.08
    rows = torch.linspace(0, 1, side).view(1, 1, side, 1).expand(64, 1, side, side)
    columns = rows.transpose(2, 3)
    for picture, axis in ((rows, 2), (columns, 3)):
        bent, _ = augmented(picture, torch.zeros_like(picture), elastic=elastic)
        inner = bent[..., 8:-8, 8:-8]  # borders are reflected
        moved = (inner - picture[..., 8:-8, 8:-8]).abs()
        assert 0.02 < moved.max().item() <= 1.3 * elastic  # a spline overshoots a little
        assert (inner.diff(dim=axis) > 0).all()  # no layer lies below one that it lay above
        assert moved.std(dim=(2, 3)).min().item() > 0  # it bends; it does not only shift
