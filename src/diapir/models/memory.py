"""Memory that is not enough: how to know it, and the largest batch that fits."""

import gc
import sys
from collections.abc import Callable


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error of torch says that a device's memory is full.

    On a GPU it has a class of its own. On the CPU it is known by its words alone.

    Source: torch, c10/core/impl/alloc_cpu.cpp, `alloc_cpu`; oneDNN, whose convolutions only say
    that they could not be made when what they need is refused.

    >>> is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to"))
    True
    >>> is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    False
    """
    torch = sys.modules.get("torch")  # where it is not loaded, none of its errors can come
    if isinstance(error, MemoryError) or (torch and isinstance(error, torch.OutOfMemoryError)):
        return True
    told = ("can't allocate memory", "create a primitive")
    return isinstance(error, RuntimeError) and any(words in str(error) for words in told)


def largest_batch(step: Callable[[int], object], batch: int) -> int:
    """Return the largest halving of `batch` for which `step` does not run out of memory, or 0."""
    while batch > 1:
        batch //= 2
        try:
            gc.collect()
            step(batch)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            continue
        return batch
    return 0
