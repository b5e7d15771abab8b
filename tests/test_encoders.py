"""Encoders: their pyramids, weights, stems, and what is frozen."""

import copy
import shlex
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from diapir.config import TO_RANDOM_WEIGHTS, ModelConfig, load_recipe
from diapir.errors import RecipeError, WeightsError
from diapir.models.encoders import build_encoder, parameter_stages
from diapir.models.quick_conv import depthwise
from diapir.models.unet import SaltNet

SMALL = "tf_efficientnet_lite0"


def sizes(levels: list[Tensor]) -> list[tuple[int, ...]]:
    return [tuple(level.shape[1:]) for level in levels]


def test_scratch_pools_odd_sizes_up() -> None:
    config = ModelConfig(encoder="scratch", scratch_channels=(4, 6, 8), batch_norm=False)
    encoder, info = build_encoder(config, 1)
    assert (info.channels, info.reductions) == ((4, 6, 8), (1, 2, 4))
    assert sizes(encoder(torch.zeros(1, 1, 101, 7))) == [(4, 101, 7), (6, 51, 4), (8, 26, 2)]


def test_scratch_has_no_weights_to_load() -> None:
    with pytest.raises(WeightsError, match="encoder 'scratch' has no weights 'imagenet'"):
        build_encoder(ModelConfig(encoder="scratch", weights="imagenet"), 1)


@pytest.mark.parametrize(
    ("name", "reductions"),
    [
        ("resnet18", (2, 4, 8, 16, 32)),
        (SMALL, (2, 4, 8, 16, 32)),
        ("convnext_atto", (4, 8, 16, 32)),
        ("repvgg_a0", (2, 4, 8, 16, 32)),  # two convolutions see the image
        ("mambaout_femto", (4, 8, 16, 32)),  # gives channels last
        ("swin_tiny_patch4_window7_224", (4, 8, 16, 32)),  # wants 224 unless told otherwise
        ("darknet53", (1, 2, 4, 8, 16, 32)),
    ],
)
def test_backbones_of_every_kind_become_unets(name: str, reductions: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    steps = reductions[-1].bit_length() - 1
    net = SaltNet(ModelConfig(encoder=name, decoder_channels=(8,) * steps)).eval()
    assert net.decoder.reductions == reductions
    with torch.no_grad():
        assert net(torch.rand(1, 1, 101, 67)).shape == (1, 1, 101, 67)


def test_drop_path_leaves_out_branches_in_training_alone() -> None:
    encoder, _ = build_encoder(ModelConfig(encoder=SMALL, drop_path=0.9), 1)
    image = torch.rand(2, 1, 64, 64)
    assert any(isinstance(m, timm.layers.DropPath) and m.drop_prob > 0 for m in encoder.modules())
    with torch.no_grad():
        for module in encoder.modules():  # batch statistics differ, too
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 0.0
        encoder.eval()
        assert torch.equal(encoder(image)[-1], encoder(image)[-1])
        encoder.train()
        assert not torch.equal(encoder(image)[-1], encoder(image)[-1])
    for weights in ("none", "imagenet"):
        with pytest.raises(RecipeError, match="cannot build 'vgg11'"):
            build_encoder(ModelConfig(encoder="vgg11", weights=weights, drop_path=0.1), 1)
    with pytest.raises(RecipeError, match="no paths to drop"):
        build_encoder(ModelConfig(encoder="scratch", drop_path=0.1), 1)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "inception_v3"])
def test_backbone_without_a_pyramid_is_refused(name: str) -> None:
    with pytest.raises(RecipeError) as caught:
        build_encoder(ModelConfig(encoder=name), 1)
    assert f"'{name}' cannot be the encoder of a U-Net" in str(caught.value)
    assert "resnet34" in str(caught.value)


def test_unknown_encoder_suggests_others() -> None:
    with pytest.raises(RecipeError) as caught:
        build_encoder(ModelConfig(encoder="resnet35"), 1)
    assert "timm has no encoder 'resnet35'" in str(caught.value)
    assert "resnet34" in str(caught.value)


def test_stem_with_stride_one_doubles_every_level() -> None:
    encoder, info = build_encoder(ModelConfig(encoder="resnet18", stem_stride=1), 1)
    assert info.reductions == (1, 2, 4, 8, 16)
    assert [level.shape[-1] for level in encoder(torch.zeros(2, 1, 64, 64))] == [64, 32, 16, 8, 4]


@pytest.mark.parametrize("name", ["convnext_atto", "dla34"])
def test_stem_that_cannot_slow_down_is_refused(name: str) -> None:
    with pytest.raises(RecipeError, match=f"the stem of '{name}' has stride"):
        build_encoder(ModelConfig(encoder=name, stem_stride=1), 1)


def test_grey_stem_answers_as_the_rgb_one() -> None:
    torch.manual_seed(0)
    rgb, _ = build_encoder(ModelConfig(encoder="resnet18", in_channels=3), 3)
    torch.manual_seed(0)
    grey, _ = build_encoder(ModelConfig(encoder="resnet18", in_channels=1), 1)
    x = torch.rand(2, 1, 64, 64)
    for a, b in zip(rgb.eval()(x.expand(-1, 3, -1, -1)), grey.eval()(x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_extra_channels_start_without_effect() -> None:
    encoder, _ = build_encoder(ModelConfig(encoder="resnet18", in_channels=1), 3)
    x = torch.rand(2, 3, 64, 64)
    other = torch.cat([x[:, :1], torch.rand(2, 2, 64, 64)], dim=1)
    encoder.eval()
    torch.testing.assert_close(encoder(x)[-1], encoder(other)[-1])
    stem = next(m for m in encoder.modules() if isinstance(m, nn.Conv2d))
    encoder(x)[-1].sum().backward()
    assert stem.weight.grad is not None
    assert stem.weight.grad[:, 1:].abs().sum() > 0  # but can learn


# --- freezing


def trained(encoder: nn.Module) -> set[str]:
    return {name for name, parameter in encoder.named_parameters() if parameter.requires_grad}


def test_all_but_last_stage_freezes_what_comes_before() -> None:
    encoder, _ = build_encoder(ModelConfig(encoder="vgg16", freeze="all-but-last-stage"), 1)
    convolutions = [n for n, p in encoder.named_parameters() if p.ndim == 4]
    assert [n for n in convolutions if n in trained(encoder)] == convolutions[-3:]


def test_a_number_freezes_so_many_stages() -> None:
    config = ModelConfig(encoder="scratch", scratch_channels=(4, 6, 8))
    encoder, _ = build_encoder(config.model_copy(update={"freeze": 2}), 1)
    assert {name.split(".")[1] for name in trained(encoder)} == {"2"}
    encoder, _ = build_encoder(config.model_copy(update={"freeze": 0}), 1)
    assert trained(encoder) == {name for name, _ in encoder.named_parameters()}
    encoder, _ = build_encoder(config.model_copy(update={"freeze": 3}), 1)
    assert not trained(encoder)


@pytest.mark.parametrize("freeze", [-1, 4])
def test_freezing_more_than_there_is_is_refused(freeze: int) -> None:
    config = ModelConfig(encoder="scratch", scratch_channels=(4, 6, 8), freeze=freeze)
    with pytest.raises(RecipeError, match=f"cannot freeze {freeze} stages(.|\n)*0 to 3"):
        build_encoder(config, 1)


def test_stages_cover_every_parameter_in_order() -> None:
    encoder, _ = build_encoder(ModelConfig(encoder=SMALL), 1)
    stages = parameter_stages(encoder, 1)
    names = [name for name, _ in encoder.named_parameters()]
    assert set(stages) == set(names)
    assert [stages[name] for name in names] == sorted(stages.values())
    assert encoder.training


def test_frozen_batch_norms_keep_their_statistics() -> None:
    torch.manual_seed(0)
    net = SaltNet(
        ModelConfig(
            encoder="scratch",
            scratch_channels=(4, 6, 8),
            decoder_channels=(6, 4),
            freeze="all-but-last-stage",
        )
    ).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    net(torch.rand(2, 1, 32, 32))
    moved = {
        name
        for name, value in net.state_dict().items()
        if name.endswith("running_mean") and not torch.equal(value, before[name])
    }
    assert any(name.startswith("encoder.levels.2") for name in moved)
    assert any(name.startswith("decoder") for name in moved)
    assert not any(name.startswith(("encoder.levels.0", "encoder.levels.1")) for name in moved)


# --- weights


def no_network(*args: Any, **options: Any) -> None:
    raise ConnectionError("Name or service not known")


def test_offline_imagenet_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timm, "create_model", no_network)
    with pytest.raises(WeightsError) as caught:
        build_encoder(ModelConfig(encoder="resnet34", weights="imagenet"), 1)
    text = str(caught.value)
    assert "cannot get the ImageNet weights of 'resnet34'" in text
    assert "Name or service not known" in text
    assert "Go online once" in text
    assert "--set model.weights=PATH" in text
    assert TO_RANDOM_WEIGHTS in text


def test_options_for_random_weights_begin_without_lovasz() -> None:
    recipe = load_recipe("classic-resnet34", shlex.split(TO_RANDOM_WEIGHTS)[1::2])
    assert (recipe.model.weights, recipe.model.freeze) == ("none", "none")
    assert recipe.loss.stage_at(0).lovasz == 0
    assert recipe.loss.stages[-1] == load_recipe("classic-scratch").loss.stages[-1]
    recipes = Path(__file__).parents[1] / "docs" / "recipes.md"
    assert TO_RANDOM_WEIGHTS in recipes.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    torch.manual_seed(1)
    state: dict[str, Tensor] = timm.create_model(SMALL, num_classes=3).state_dict()
    return {name: value.contiguous() for name, value in state.items()}


def saved(state: dict[str, Tensor], folder: Path) -> str:
    path = folder / "weights.safetensors"
    save_file(state, path)
    return str(path)


def test_weights_from_a_file_are_taken(weights: dict[str, Tensor], tmp_path: Path) -> None:
    path = saved(weights, tmp_path)
    encoder, _ = build_encoder(ModelConfig(encoder=SMALL, weights=path, in_channels=3), 3)
    own = encoder.state_dict()
    assert torch.equal(own["conv_stem.weight"], weights["conv_stem.weight"])
    # timm writes 'blocks.1.0.', the pyramid 'blocks.1.0.' or 'blocks_1.0.'
    for name, value in own.items():
        dotted = name.replace("blocks_", "blocks.")
        assert torch.equal(value, weights[dotted]), name


def test_counters_of_batch_norm_may_be_missing(weights: dict[str, Tensor], tmp_path: Path) -> None:
    kept = {n: v for n, v in weights.items() if not n.endswith("num_batches_tracked")}
    assert len(kept) < len(weights)
    encoder, _ = build_encoder(ModelConfig(encoder=SMALL, weights=saved(kept, tmp_path)), 1)
    assert torch.equal(encoder.state_dict()["bn1.running_var"], weights["bn1.running_var"])


def test_weights_of_another_encoder_are_refused(weights: dict[str, Tensor], tmp_path: Path) -> None:
    path = saved(weights, tmp_path)
    with pytest.raises(WeightsError) as caught:
        build_encoder(ModelConfig(encoder="resnet18", weights=path), 1)
    assert path in str(caught.value)
    assert "parameters are missing" in str(caught.value)
    assert "change model.encoder" in str(caught.value)


def test_weights_of_another_shape_are_refused(weights: dict[str, Tensor], tmp_path: Path) -> None:
    path = saved(weights | {"conv_stem.weight": torch.zeros(32, 3, 5, 5)}, tmp_path)
    with pytest.raises(WeightsError, match=r"1 have another shape, first 'conv_stem.weight'"):
        build_encoder(ModelConfig(encoder=SMALL, weights=path), 1)


@pytest.mark.parametrize("content", [None, b"", b"\x80\x04pickle", b"\x10" + b"\0" * 7 + b"{}"])
def test_unreadable_weights_are_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "weights.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(WeightsError) as caught:
        build_encoder(ModelConfig(encoder=SMALL, weights=str(path)), 1)
    assert "cannot read encoder weights" in str(caught.value)
    assert str(path) in str(caught.value)


# --- convolutions that train quicker


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 7),
    columns=st.integers(1, 9),
    height=st.integers(7, 14),
    width=st.integers(9, 14),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 4), st.integers(0, 4)),
    bias=st.booleans(),
    channels_last=st.booleans(),
    half=st.booleans(),
)
def test_depthwise_kernels_have_their_gradients(
    rows: int,
    columns: int,
    height: int,
    width: int,
    stride: tuple[int, int],
    padding: tuple[int, int],
    bias: bool,
    channels_last: bool,
    half: bool,
) -> None:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    torch.manual_seed(rows * columns)
    x = torch.randn(2, 6, height, width, dtype=torch.float64).contiguous(memory_format=layout)
    inputs = [x, torch.randn(6, 1, rows, columns, dtype=torch.float64)]
    inputs += [torch.randn(6, dtype=torch.float64)] if bias else []
    inputs = [value.requires_grad_() for value in inputs]
    theirs = F.conv2d(*inputs, stride=stride, padding=padding, groups=6)
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        own = depthwise(inputs[0], inputs[1], inputs[2] if bias else None, stride, padding)
    assert own.dtype == (torch.bfloat16 if half else torch.float64)
    margin = {"atol": 0.3, "rtol": 0.05} if half else {"atol": 1e-12, "rtol": 1e-12}
    torch.testing.assert_close(own.double(), theirs, **margin)
    grad = torch.randn_like(theirs)
    for found, wanted in zip(
        torch.autograd.grad(own, inputs, grad.to(own.dtype)),
        torch.autograd.grad(theirs, inputs, grad),
        strict=True,
    ):
        torch.testing.assert_close(found, wanted, **margin)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("name", [SMALL, "efficientnet_lite0", "convnext_atto"])
def test_encoders_learn_the_same_as_those_of_timm(name: str, half: bool) -> None:
    torch.manual_seed(0)
    rounding = 2**-7 if half else 0  # sums in another order may round to the next value of bf16
    theirs = timm.create_model(name, features_only=True, in_chans=1)
    own, _ = build_encoder(ModelConfig(encoder=name), 1)
    own.load_state_dict(theirs.state_dict())  # the names are the same
    own = copy.deepcopy(own)  # as averaging weights does
    quick = [type(m).__name__ for m in own.modules() if "_Quick" in type(m).__name__]
    assert len(quick) >= 6
    for training in (True, False):
        for side in (64, 75):
            image = torch.rand(2, 1, side, side)
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                found = [net.train(training)(image) for net in (own, theirs)]
            for mine, level in zip(*found, strict=True):
                torch.testing.assert_close(mine, level, atol=1e-4, rtol=1e-4)
            gradients = []
            for net, levels in zip((own, theirs), found, strict=True):
                net.zero_grad()
                sum(level.square().mean() for level in levels).backward()
                gradients.append({n: p.grad for n, p in net.named_parameters()})
            for parameter, wanted in gradients[1].items():
                scale = wanted.abs().max() + 1e-6
                torch.testing.assert_close(
                    gradients[0][parameter] / scale, wanted / scale, atol=1e-3, rtol=rounding
                )
