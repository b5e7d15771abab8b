"""The engines of a predictor: one a network and tile size, made when the work is worth it."""

import threading
from collections.abc import Callable, Sequence

from diapir.errors import RunError
from diapir.inference.choice import (
    WORTH_BUILDING,
    WORTH_MEASURING,
    Memory,
    choose_engine,
    memory_key,
)
from diapir.inference.engine import (
    PRECISIONS,
    Engine,
    EngineChoice,
    Floats,
    build_engine,
    check_backend,
    pass_size,
)
from diapir.models.processor import check_precision, fastest_precision
from diapir.models.stored import AnyNet, device_type

_TILE = 101 * 101

Sample = Callable[[], tuple[Floats, Floats | None]]
"""Returns images and depths of some tiles."""


class EnginePool:
    """Runs networks by the engine that is asked for, or by the fastest where that pays.

    Args:
        nets: In evaluation mode, on one device; those not yet built are on the CPU.
        backend: One of `BACKENDS`, or 'auto': torch for small work; for more, what was measured
            before on this kind of tiles; for much, what is measured then.
        precision: One of `PRECISIONS`.
        memory: Of earlier choices.

    Raises:
        RunError: The backend or the precision does not exist or cannot work here.
    """

    def __init__(
        self,
        nets: Sequence[AnyNet],
        backend: str = "auto",
        precision: str = "auto",
        memory: Memory | None = None,
    ) -> None:
        self._device = device_type(nets[0])
        if backend != "auto":
            check_backend(backend, self._device)
        if precision not in PRECISIONS:
            raise RunError(
                f"there is no precision {precision!r}",
                where="--precision",
                expected=", ".join(PRECISIONS),
            )
        if (backend, precision) == ("onnxruntime", "bf16"):
            raise RunError(
                "ONNX Runtime computes in float32 alone",
                where="--engine onnxruntime --precision bf16",
                expected="--precision auto or float32, or another engine",
            )
        if self._device == "cpu":
            check_precision(precision, "--precision bf16")
        self._nets, self._backend, self._precision = nets, backend, precision
        self._memory = memory
        self._engines: dict[tuple[int, int, int], Engine] = {}
        self._building = threading.Lock()

    def prepare(self, size: tuple[int, int], tiles: int, some: Sample) -> None:
        """Make every network ready for tiles of this size.

        Args:
            size: Height and width in pixels.
            tiles: How many are going to come, mirrored ones counted.
            some: Returns (N, 1, H, W) images of them, and (N,) depths where a network has a depth
                channel; only called to measure.
        """
        height, width = size
        work = tiles * height * width // _TILE
        with self._building:
            for number, net in enumerate(self._nets):
                key = (number, height, width)
                made = self._engines.get(key)
                if made is None or (self._backend == "auto" and self._is_stopgap(made, size, work)):
                    self._engines[key] = self._make(net, size, work, some)

    def __call__(self, number: int, images: Floats, z_feet: Floats | None) -> Floats:
        """Return the (N, 1, H, W) logits of a network that is ready for tiles of this size."""
        height, width = images.shape[-2:]
        depths = _depths_for(self._nets[number], z_feet)
        return self._engines[number, height, width](images, depths)

    def describe(self) -> list[str]:
        """Return the engines in use, each once, in words."""
        return sorted({str(engine.choice) for engine in self._engines.values()})

    def _is_stopgap(self, made: Engine, shape: tuple[int, int], work: int) -> bool:
        return made.choice == self._plain(shape) and work >= WORTH_BUILDING

    def _make(self, net: AnyNet, shape: tuple[int, int], work: int, some: Sample) -> Engine:
        if self._backend != "auto":
            choice = EngineChoice(self._backend, self._named_precision(), self._pass_size(shape))
            return build_engine(net, choice, *shape)
        if self._device != "cpu" or work < WORTH_BUILDING:
            return build_engine(net, self._plain(shape), *shape)
        memory = self._memory or Memory()
        key = memory_key(net, (1, *shape), self._precision)
        known = memory.recall(key)
        if known is None and work >= WORTH_MEASURING:
            try:
                images, z_feet = some()
                depths = _depths_for(net, z_feet)
                engine, seconds = choose_engine(net, images, depths, self._precision)
            except (RuntimeError, MemoryError):  # full memory: the pass itself will say what fits
                return build_engine(net, self._plain(shape), *shape)
            memory.remember(key, engine.choice, seconds)
            return engine
        return build_engine(net, known or self._plain(shape), *shape)

    def _plain(self, shape: tuple[int, int]) -> EngineChoice:
        return EngineChoice("eager", self._precision, self._pass_size(shape))

    def _pass_size(self, shape: tuple[int, int]) -> int:
        whole = 1 << 20  # a GPU takes what it gets at once
        return pass_size(*shape) if self._device == "cpu" else whole

    def _named_precision(self) -> str:
        """Return what 'auto' means to a backend that was asked for by name."""
        if self._precision != "auto" or self._backend in ("eager", "compile"):
            return self._precision
        return fastest_precision() if self._backend == "openvino" else "float32"


def _depths_for(net: AnyNet, z_feet: Floats | None) -> Floats | None:
    """Return the depths where the network has an input for them: graphs refuse what they lack."""
    return z_feet if net.config.depth_channel else None
