"""Engines agree with the network, are chosen by measurement, and say what is missing."""

import ctypes
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from diapir.config import ModelConfig
from diapir.errors import OptionError
from diapir.inference import engine as engines
from diapir.inference import engine_choice as choosing
from diapir.inference.engine import (
    Engine,
    EngineChoice,
    build_engine,
    check_backend,
    installed_backends,
)
from diapir.inference.engine_choice import (
    EngineMemory,
    MeasuredEngine,
    candidates,
    choose_engine,
    exact_logits,
    keeps_to,
    memory_key,
)
from diapir.inference.engine_pool import EnginePool, Sample
from diapir.inference.graphs import plain_copy
from diapir.inference.predict import Predictor
from diapir.inference.signature import Floats
from diapir.models.stored import AnyNet, StoredNet, built
from diapir.models.unet import SaltNet

SMALL = ModelConfig(encoder="scratch", scratch_channels=(4, 8), decoder_channels=(4,))


def network(**changes: object) -> SaltNet:
    torch.manual_seed(0)
    return SaltNet(SMALL.model_copy(update=changes)).eval()


def tiles(count: int = 5, height: int = 37, width: int = 51) -> Floats:
    return np.random.default_rng(1).random((count, 1, height, width), np.float32)


def logits(net: SaltNet, images: Floats, z_feet: Floats | None = None) -> Floats:
    """Of the network itself."""
    depths = None if z_feet is None else torch.tensor(z_feet)
    with torch.inference_mode():
        return net(torch.tensor(images), depths).numpy()


def work(images: Floats, count: int) -> tuple[tuple[int, int], int, Sample]:
    """What a pool is prepared by: size, number of tiles, some of them."""
    return (images.shape[-2], images.shape[-1]), count, lambda: (images, None)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DIAPIR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("backend", ["eager", "openvino", "onnxruntime"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"depth_channel": True},
        {"resize_to": 64, "pad_mode": "edge"},
        {"pad_mode": "none", "upsampling": "transposed"},
        {"also_resize_to": (128,)},
    ],
    ids=["padded", "depth", "resized", "odd", "sizes"],
)
def test_exact_engines_give_the_logits_of_the_network(
    backend: str, changes: dict[str, object]
) -> None:
    if backend not in installed_backends():
        pytest.skip(f"{backend} is not installed")
    net, images = network(**changes), tiles()
    z_feet = np.linspace(100, 900, 5, dtype=np.float32) if net.config.depth_channel else None
    wanted = logits(net, images, z_feet)
    found = build_engine(net, EngineChoice(backend, "float32", batch=2), 37, 51)(images, z_feet)
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, atol=1e-4, rtol=1e-4)


def test_compiled_engine_fills_its_last_batch() -> None:
    """Without a compiler: what matters here is what becomes of five tiles in batches of two."""
    seen: list[int] = []

    def run(images: Floats, z_feet: Floats | None) -> Floats:
        seen.append(len(images))
        return images if z_feet is None else images + z_feet[:, None, None, None]

    engine = Engine(EngineChoice("compile", batch=2), run, whole_batches=True)
    images, z_feet = tiles(), np.arange(5, dtype=np.float32)
    assert np.array_equal(engine(images), images)
    assert np.array_equal(engine(images, z_feet), images + z_feet[:, None, None, None])
    assert set(seen) == {2}


def test_precision_of_the_graph_does_not_follow_that_of_the_network() -> None:
    if "onnxruntime" not in installed_backends():
        pytest.skip("ONNX Runtime is not installed")
    net, images = network(), tiles()
    wanted = logits(net, images)
    net.set_precision("bf16", "cpu")
    engine = build_engine(net, EngineChoice("onnxruntime", "float32"), 37, 51)
    np.testing.assert_allclose(engine(images), wanted, atol=1e-4, rtol=1e-4)
    assert net.autocast_dtype is torch.bfloat16  # and the network keeps its own


def test_the_truth_leaves_the_network_as_it_was() -> None:
    net, images = network(), tiles()
    net.set_precision("bf16", "cpu")
    wanted = logits(plain_copy(net), images)
    np.testing.assert_allclose(exact_logits(net, images, None), wanted, atol=1e-5, rtol=1e-5)
    assert net.autocast_dtype is torch.bfloat16


def test_unknown_and_missing_engines_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OptionError, match="no engine 'tensorrt'") as caught:
        check_backend("tensorrt")
    assert "auto, eager" in str(caught.value)
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    monkeypatch.setattr(engines.shutil, "which", lambda name: None)
    assert installed_backends() == ["eager"]
    for backend, mend in (("openvino", "\\[export\\]"), ("compile", "C\\+\\+ compiler")):
        with pytest.raises(OptionError, match=mend):
            check_backend(backend)
    with pytest.raises(OptionError, match="no precision 'int4'"):
        EnginePool([network()], precision="int4")


def test_onnx_runtime_is_not_said_to_compute_in_bf16() -> None:
    if "onnxruntime" not in installed_backends():
        pytest.skip("onnxruntime is not installed")
    with pytest.raises(OptionError, match="in float32 alone"):
        EnginePool([network()], "onnxruntime", "bf16")


def test_openvino_is_imported_without_its_telemetry(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    import os
    import subprocess
    import sys

    program = (
        "from diapir.inference.engine import quiet_openvino; quiet_openvino(); import sys; "
        "print(sys.modules['openvino_telemetry'])"
    )
    environment = os.environ | {"HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "None"
    assert not list(tmp_path.iterdir())


def test_exact_candidates_are_float32_and_fast_ones_may_be_bf16(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(choosing, "installed_backends", lambda device: list(engines.BACKENDS))
    monkeypatch.setattr(choosing, "has_fast_bf16", lambda: True)
    assert {c.precision for c in candidates("float32")} == {"float32"}
    assert EngineChoice("openvino", "bf16") in candidates("auto")
    monkeypatch.setattr(choosing, "has_fast_bf16", lambda: False)
    assert EngineChoice("openvino", "bf16") not in candidates("auto")


def test_an_engine_is_not_judged_by_rounds_in_which_the_machine_was_busy() -> None:
    calls = {"stalls": 0, "steady": 0}

    def engine(name: str) -> Engine:
        def run(x: Floats, z: Floats | None) -> Floats:
            calls[name] += 1
            busy = name == "stalls" and calls[name] % 3
            time.sleep(0.03 if busy else 0.001 if name == "stalls" else 0.01)
            return x

        return Engine(EngineChoice(name, "float32", 16), run)

    stalls, steady = engine("stalls"), engine("steady")
    pair = {one.choice: one for one in (steady, stalls)}
    seconds = choosing._seconds_a_tile(pair, tiles(4), None)
    assert seconds[stalls.choice] < seconds[steady.choice]
    assert calls["stalls"] == calls["steady"] > 2


def test_an_engine_that_answers_otherwise_is_not_kept() -> None:
    wanted = np.linspace(-4, 4, 10_000, dtype=np.float32).reshape(1, 1, 100, 100)
    assert keeps_to(wanted, wanted, exact=True)
    assert keeps_to(wanted + 3e-4, wanted, exact=True)  # 1e-4 of logits up to 4
    assert not keeps_to(wanted + 1e-3, wanted, exact=True)
    assert keeps_to(wanted + 5e-3, wanted, exact=False)
    assert not keeps_to(wanted + 0.1, wanted, exact=False)


def test_the_fastest_is_chosen_and_a_broken_backend_is_passed_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net, images = network(), tiles(8)
    built: list[str] = []

    def build(net: SaltNet, choice: EngineChoice, height: int, width: int) -> Engine:
        built.append(choice.backend)
        if choice.backend == "onnxruntime":
            raise ValueError("a library of another world")
        if choice.backend == "openvino":  # wrong answers, however fast
            return Engine(choice, lambda x, z: np.full_like(x, 9.0))
        return build_engine(net, choice, height, width)

    monkeypatch.setattr(choosing, "installed_backends", lambda device: list(engines.BACKENDS))
    monkeypatch.setattr(choosing, "build_engine", build)
    found = choose_engine(net, images, None, "auto")
    choice = found.engine.choice
    assert choice.backend == "eager"
    assert {"openvino", "onnxruntime"} <= set(built)
    assert not any(key.startswith("onnxruntime") for key in found.seconds)
    assert choice.batch in (4, 8, 16)
    # another network may keep to its answers with the one that is faster
    assert found.fastest.backend == "openvino"


def test_the_engine_that_was_measured_is_the_one_used(monkeypatch: pytest.MonkeyPatch) -> None:
    net, images = network(), tiles(4, 101, 101)
    wanted = build_engine(net, EngineChoice("eager", "float32"), 101, 101)(images)
    built: list[str] = []

    def build(net: SaltNet, choice: EngineChoice, height: int, width: int) -> Engine:
        built.append(choice.backend)
        if choice.backend == "openvino":  # right answers at once: the fastest of all
            return Engine(choice, lambda x, z: wanted[: len(x)])
        return build_engine(net, choice, height, width)

    monkeypatch.setattr(choosing, "installed_backends", lambda device: ["eager", "openvino"])
    monkeypatch.setattr(choosing, "build_engine", build)
    monkeypatch.setattr("diapir.inference.engine_pool.build_engine", build)
    pool = EnginePool([net], precision="float32")
    pool.prepare(*work(images, 5000))
    assert pool.describe()[0].startswith("openvino, float32")
    assert built == ["eager", "eager", "openvino"]  # the reference, then each candidate once
    assert np.array_equal(pool(0, images, None), wanted)
    EnginePool([net], precision="float32").prepare(*work(images, 5000))
    # remembered: not measured; looked at, as other weights of this kind may have chosen it
    assert built[3:] == ["openvino", "eager"]


def test_choices_are_remembered_by_what_they_depend_on(own_cache: Path) -> None:
    net, memory = network(), EngineMemory()
    key = memory_key(net, (1, 37, 51), "auto")
    assert memory.recall(key) is None
    memory.remember(key, EngineChoice("eager", "auto", 4), {"eager": 0.1})
    assert EngineMemory().recall(key) == EngineChoice("eager", "auto", 4)
    assert (own_cache / "engines.json").is_file()
    others = [
        memory_key(network(scse=True), (1, 37, 51), "auto"),
        memory_key(net, (1, 37, 52), "auto"),
        memory_key(net, (1, 37, 51), "float32"),
        memory_key(net, (1, 37, 51), "auto", "weights of its own"),
    ]
    assert len({key, *others}) == 5


@pytest.mark.parametrize("text", ["", "[]", '{"KEY": 3}', '{"KEY": {"choice": {"speed": 9}}}'])
def test_a_damaged_memory_is_an_empty_one(text: str, own_cache: Path) -> None:
    own_cache.mkdir()
    (own_cache / "engines.json").write_text(text)
    memory = EngineMemory()
    assert memory.recall("KEY") is None
    memory.remember("KEY", EngineChoice(), {})
    assert memory.recall("KEY") == EngineChoice()


def test_a_memory_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    memory = EngineMemory(tmp_path / "file" / "engines.json")
    memory.remember("KEY", EngineChoice(), {})
    assert memory.recall("KEY") is None


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tiles each measurement was given."""
    calls: list[int] = []

    def choose(
        net: SaltNet, images: Floats, z_feet: Floats | None, precision: str
    ) -> MeasuredEngine:
        calls.append(len(images))
        choice = EngineChoice("eager", "float32", 3)
        return MeasuredEngine(build_engine(net, choice, 101, 101), choice, {})

    monkeypatch.setattr("diapir.inference.engine_pool.choose_engine", choose)
    return calls


def test_little_work_is_not_measured_and_much_is_once(chosen: list[int]) -> None:
    net, images = network(), tiles(4, 101, 101)
    pool = EnginePool([net])
    pool.prepare(*work(images, 20))
    assert not chosen
    assert pool.describe() == ["eager, auto, 16 tiles a pass"]
    pool.prepare(*work(images, 400))  # enough for an engine that is known, and none is
    assert not chosen
    pool.prepare(*work(images, 5000))
    assert chosen == [4]
    assert pool.describe() == ["eager, float32, 3 tiles a pass"]
    EnginePool([net]).prepare(*work(images, 5000))  # another predictor, the same memory
    again = EnginePool([net])
    again.prepare(*work(images, 400))
    assert chosen == [4]
    assert again.describe() == ["eager, float32, 3 tiles a pass"]


def in_file(net: SaltNet, name: str) -> StoredNet:
    """A network as it comes out of a model file."""
    return StoredNet(net.config, name, lambda: net)


@pytest.mark.parametrize("precision", ["bf16", "float32"])
def test_an_engine_of_other_weights_is_checked_once_before_it_is_taken(
    precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = tiles(4, 101, 101)
    sure, unsure = network(), network()
    with torch.no_grad():
        sure.head.bias.fill_(9.0)
        unsure.head.bias.fill_(0.0)
    fast = EngineChoice("openvino", precision, 16)
    checked: list[SaltNet] = []

    def build(net: AnyNet, choice: EngineChoice, height: int, width: int) -> Engine:
        if choice.backend == "openvino":  # right where all is salt
            return Engine(choice, lambda x, z: np.full_like(x, 9.0))
        return build_engine(net, choice, height, width)

    def check(engine: Engine, net: AnyNet, x: Floats, z: Floats | None, asked: str) -> bool:
        checked.append(built(net))
        return choosing.agrees(engine, net, x, z, asked)

    monkeypatch.setattr("diapir.inference.engine_pool.build_engine", build)
    monkeypatch.setattr("diapir.inference.engine_pool.agrees", check)
    EngineMemory().remember(memory_key(sure, (1, 101, 101), "auto"), fast, {})
    for net, name, taken in ((sure, "a", True), (unsure, "b", False), (sure, "a", True)):
        pool = EnginePool([in_file(net, name)])
        pool.prepare(*work(images, 400))
        pool.prepare(*work(images, 400))
        assert pool.describe() == [str(fast) if taken else "eager, auto, 16 tiles a pass"]
    assert checked == [sure, unsure]  # what was found out is remembered
    # much work finds the engine of those weights
    monkeypatch.setattr(choosing, "build_engine", build)
    monkeypatch.setattr(choosing, "candidates", lambda precision: [fast])
    pool = EnginePool([in_file(unsure, "b")])
    pool.prepare(*work(images, 5000))
    assert pool.describe()[0].startswith("eager")
    assert EngineMemory().recall(memory_key(sure, (1, 101, 101), "auto")).backend == "openvino"


def test_what_was_measured_is_not_measured_again(
    chosen: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where the cache cannot be written, and torch is the fastest."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DIAPIR_CACHE", str(tmp_path / "file" / "cache"))
    pool = EnginePool([network()])
    for _ in range(3):
        pool.prepare(*work(tiles(4, 101, 101), 5000))
    assert len(chosen) == 1


def test_engines_of_many_sizes_do_not_pile_up() -> None:
    pool = EnginePool([network()])
    sizes = [(40 + k, 40) for k in range(12)]
    for size in sizes:
        pool.prepare(*work(tiles(2, *size), 2))
        pool.prepare(*work(tiles(2, *sizes[0]), 2))  # in use all the time
    assert len(pool._engines) == 8
    assert (0, *sizes[0]) in pool._engines
    assert (0, *sizes[1]) not in pool._engines
    for size in sizes[:2]:  # one that has gone does its work all the same
        assert pool(0, tiles(2, *size), None).shape[-2:] == size


def test_an_engine_that_takes_all_at_once_fills_up_to_the_largest_batch() -> None:
    seen: list[int] = []
    choice = EngineChoice("compile", "auto", engines.WHOLE)

    def run(x: Floats, z: Floats | None) -> Floats:
        seen.append(len(x))
        return x

    engine = Engine(choice, run, whole_batches=True)
    assert [len(engine(tiles(count))) for count in (6, 6, 2)] == [6, 6, 2]
    assert seen == [6, 6, 6]


def test_many_images_to_come_are_worth_measuring(chosen: list[int]) -> None:
    images = np.zeros((4, 101, 101), np.uint8)
    Predictor([network()], engine="auto").predict_probs(images)
    assert not chosen
    Predictor([network()], engine="auto", expected=5000).predict_probs(images)
    assert len(chosen) == 1


def test_an_engine_named_is_made_once_however_much_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[EngineChoice] = []

    def build(net: AnyNet, choice: EngineChoice, height: int, width: int) -> Engine:
        made.append(choice)
        return build_engine(net, choice, height, width)

    monkeypatch.setattr("diapir.inference.engine_pool.build_engine", build)
    pool = EnginePool([network()], "eager", "float32")
    for count in (1, 400, 5000):
        pool.prepare(*work(tiles(4, 101, 101), count))
    assert len(made) == 1


def test_an_engine_named_is_the_engine_used(chosen: list[int]) -> None:
    pool = EnginePool([network()], "eager", "float32")
    pool.prepare(*work(tiles(), 10**6))
    assert not chosen
    assert pool.describe() == ["eager, float32, 16 tiles a pass"]


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_predictors_agree_whatever_computes(backend: str) -> None:
    if backend not in installed_backends():
        pytest.skip(f"{backend} is not installed")
    images = np.random.default_rng(0).integers(0, 256, (7, 40, 40), np.uint8)
    nets: Callable[[], list[SaltNet]] = lambda: [network(), network(scse=True)]  # noqa: E731
    plain = Predictor(nets(), weights=[1, 3], engine="eager", precision="float32")
    other = Predictor(nets(), weights=[1, 3], engine=backend, precision="float32", batch_size=3)
    assert np.abs(plain.predict_probs(images) - other.predict_probs(images)).max() < 1e-4
    assert other.engines.describe() == [f"{backend}, float32, 16 tiles a pass"]


def test_full_memory_while_measuring_leaves_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[object] = []

    def full(*given: object) -> None:
        tries.append(given)
        raise MemoryError

    monkeypatch.setattr("diapir.inference.engine_pool.choose_engine", full)
    pool = EnginePool([network()])
    for _ in range(2):
        pool.prepare(*work(tiles(4, 101, 101), 5000))
    assert pool.describe() == ["eager, auto, 16 tiles a pass"]
    assert len(tries) == 1


@pytest.mark.parametrize("backend", ["eager", "openvino", "onnxruntime"])
def test_networks_with_and_without_depth_go_together(backend: str) -> None:
    if backend not in installed_backends():
        pytest.skip(f"{backend} is not installed")
    images = np.random.default_rng(0).integers(0, 256, (3, 40, 40), np.uint8)
    z_feet = np.array([100, 500, 900], np.float32)
    nets = [network(), network(depth_channel=True)]
    found = Predictor(nets, engine=backend, precision="float32").predict_probs(images, z_feet)
    alone = [
        Predictor([net], engine="eager", precision="float32").predict_probs(images, z_feet)
        for net in nets
    ]
    assert np.abs(found - np.mean(alone, axis=0)).max() < 1e-4


@pytest.mark.skipif(sys.platform != "linux", reason="signal stacks are looked at as on Linux")
def test_openvino_leaves_the_stack_for_signals_alone() -> None:
    """It would put its own there, and the next signal after it is gone would be the end."""
    pytest.importorskip("openvino")
    stack, system = engines._SignalStack(), ctypes.CDLL(None)
    stacks = []
    for _ in range(2):
        system.sigaltstack(None, ctypes.byref(stack))
        stacks.append((stack.sp, stack.size))
        build_engine(network(), EngineChoice("openvino", "float32"), 37, 51)(tiles())
    assert stacks[0] == stacks[1]
