"""The engines of a predictor: one a network and tile size, made when the work is worth it."""

import threading
from collections.abc import Callable, Sequence

from diapir.errors import OptionError
from diapir.inference.engine import (
    PRECISIONS,
    WHOLE,
    Engine,
    EngineChoice,
    build_engine,
    check_backend,
    pass_size,
)
from diapir.inference.engine_choice import (
    WORTH_BUILDING,
    WORTH_MEASURING,
    EngineMemory,
    agrees,
    choose_engine,
    memory_key,
)
from diapir.inference.signature import Floats
from diapir.models.processor import check_precision, fastest_precision
from diapir.models.stored import AnyNet, StoredNet, device_type

_TILE = 101 * 101
_KEPT_SIZES = 8
_Key = tuple[int, int, int]
"""Number of a network, height and width of its tiles."""

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
        OptionError: The backend or the precision does not exist or cannot work here.
    """

    def __init__(
        self,
        nets: Sequence[AnyNet],
        backend: str = "auto",
        precision: str = "auto",
        memory: EngineMemory | None = None,
    ) -> None:
        self._device = device_type(nets[0])
        if backend != "auto":
            check_backend(backend, self._device)
        if precision not in PRECISIONS:
            raise OptionError(
                f"there is no precision {precision!r}",
                "precision",
                expected=", ".join(PRECISIONS),
            )
        if (backend, precision) == ("onnxruntime", "bf16"):
            raise OptionError(
                "ONNX Runtime computes in float32 alone, not in bf16",
                "engine",
                "precision",
                expected="--precision auto or float32, or another engine",
            )
        if self._device == "cpu":
            check_precision(precision, "--precision bf16")
        self._nets, self._backend, self._precision = nets, backend, precision
        self._memory = memory
        self._engines: dict[_Key, Engine] = {}
        self._looked: dict[_Key, int] = {}  # how far an engine was looked for, in works
        self._sizes: dict[tuple[int, int], None] = {}  # the one used last comes last
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
        worth = self._worth(tiles * height * width // _TILE)
        with self._building:
            for number, net in enumerate(self._nets):
                key = (number, height, width)
                if self._looked.get(key, -1) < worth:  # else more work reaches no further
                    self._engines[key] = self._make(net, size, worth, some)
                    self._looked[key] = worth
            self._sizes[size] = self._sizes.pop(size, None)  # the last one to go
            self._forget_sizes()

    def __call__(self, number: int, images: Floats, z_feet: Floats | None) -> Floats:
        """Return the (N, 1, H, W) logits of a network that is ready for tiles of this size."""
        height, width = images.shape[-2:]
        net = self._nets[number]
        engine = self._engines.get((number, height, width))
        if engine is None:  # of a size that another thread's many sizes have driven out
            engine = self._small(net, (height, width))
        return engine(images, _depths_for(net, z_feet))

    def describe(self) -> list[str]:
        """Return the engines in use, each once, in words."""
        return sorted({str(engine.choice) for engine in self._engines.values()})

    def _forget_sizes(self) -> None:
        """Keep the engines of the last sizes: each holds memory, and folders hold many sizes."""
        for size in list(self._sizes)[:-_KEPT_SIZES]:
            del self._sizes[size]
            for number in range(len(self._nets)):
                del self._engines[number, *size], self._looked[number, *size]

    def _worth(self, work: int) -> int:
        """Return the most that so many tiles are worth; nothing where there is no choice."""
        if self._backend != "auto" or self._device != "cpu":
            return 0
        return max(level for level in (0, WORTH_BUILDING, WORTH_MEASURING) if work >= level)

    def _make(self, net: AnyNet, shape: tuple[int, int], worth: int, some: Sample) -> Engine:
        if worth < WORTH_BUILDING:
            return self._small(net, shape)
        try:
            found = self._remembered(net, shape, some)
            if found is None and worth >= WORTH_MEASURING:
                found = self._measured(net, shape, some)
        except (RuntimeError, MemoryError):  # full memory: the pass itself will say what fits
            found = None
        return found or self._small(net, shape)

    def _small(self, net: AnyNet, shape: tuple[int, int]) -> Engine:
        """Return the engine of little work: that which was asked for, else torch."""
        if self._backend == "auto":
            return build_engine(net, self._plain(shape), *shape)
        choice = EngineChoice(self._backend, self._named_precision(), self._pass_size(shape))
        return build_engine(net, choice, *shape)

    def _remembered(self, net: AnyNet, shape: tuple[int, int], some: Sample) -> Engine | None:
        """Return what was chosen before for these weights, or what suits them of other weights."""
        memory, (own, alike) = self._memory or EngineMemory(), self._keys(net, shape)
        if own is not None and (known := memory.recall(own)):
            return build_engine(net, known, *shape)
        known = memory.recall(alike)
        if known is None:
            return None
        engine = build_engine(net, known, *shape)
        if known.backend != "eager":
            images, z_feet = some()
            if not agrees(engine, net, images, _depths_for(net, z_feet), self._precision):
                return None
        if own is not None:
            memory.remember(own, known, {})
        return engine

    def _measured(self, net: AnyNet, shape: tuple[int, int], some: Sample) -> Engine:
        memory, (own, alike) = self._memory or EngineMemory(), self._keys(net, shape)
        images, z_feet = some()
        found = choose_engine(net, images, _depths_for(net, z_feet), self._precision)
        memory.remember(alike, found.fastest, found.seconds)
        if own is not None:
            memory.remember(own, found.engine.choice, found.seconds)
        return found.engine

    def _keys(self, net: AnyNet, shape: tuple[int, int]) -> tuple[str | None, str]:
        """Return under which names choices are remembered: of these weights, of all alike.

        A network that comes out of no file has no name of its own.
        """
        alike = memory_key(net, (1, *shape), self._precision)
        if not isinstance(net, StoredNet):
            return None, alike
        return memory_key(net, (1, *shape), self._precision, net.name), alike

    def _plain(self, shape: tuple[int, int]) -> EngineChoice:
        return EngineChoice("eager", self._precision, self._pass_size(shape))

    def _pass_size(self, shape: tuple[int, int]) -> int:
        return pass_size(*shape) if self._device == "cpu" else WHOLE

    def _named_precision(self) -> str:
        """Return what 'auto' means to a backend that was asked for by name."""
        if self._precision != "auto" or self._backend in ("eager", "compile"):
            return self._precision
        return fastest_precision() if self._backend == "openvino" else "float32"


def _depths_for(net: AnyNet, z_feet: Floats | None) -> Floats | None:
    """Return the depths where the network has an input for them: graphs refuse what they lack."""
    return z_feet if net.config.depth_channel else None
