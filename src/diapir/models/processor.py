"""What this machine's processor can do, found without torch: importing it takes seconds."""

import os
import sys
from functools import cache
from pathlib import Path

from diapir.errors import RunError

_CPUINFO = Path("/proc/cpuinfo")
_CORES = Path("/sys/devices/system/cpu")
_CARDS = ("/dev/nvidiactl", "/dev/nvmap", "/dev/dxg", "/dev/kfd")
"""Of NVIDIA's driver, of that of its small boards, of Windows' Linux, of AMD's driver."""


def has_fast_bf16() -> bool:
    """Return whether the processor has instructions for bf16; without, bf16 takes far longer."""
    flags = _flags()
    if flags is None:
        import torch

        return torch.cpu._is_avx512_bf16_supported()
    return "avx512_bf16" in flags


def fastest_precision() -> str:
    """Return what 'auto' means here: 'bf16' where the processor has instructions, or 'float32'."""
    return "bf16" if has_fast_bf16() else "float32"


def check_precision(precision: str, where: str) -> None:
    """Refuse a precision that would take many times as long here.

    Args:
        precision: 'auto', 'float32' or 'bf16', of work on the processor.
        where: Option or key that names it.

    Raises:
        RunError: It is bf16, and the processor has no instructions for it.
    """
    if precision == "bf16" and not has_fast_bf16():
        raise RunError(
            f"this processor ({instructions()}) has no instructions for bf16",
            where=where,
            expected="auto or float32",
            mend="Leave it out: 'auto' takes bf16 where it is the faster one.",
        )


def instructions() -> str:
    """Return the widest instructions that there are, and whether there are some for bf16.

    Returns:
        Such as 'AVX2', 'AVX512 with bf16' or 'AVX512 with bf16 and AMX'.
    """
    flags = _flags()
    if flags is None:
        import torch

        return torch.backends.cpu.get_cpu_capability()
    widest = next((name for name in ("AVX512F", "AVX2") if name.lower() in flags), "no AVX2")
    with_bf16 = " with bf16" if has_fast_bf16() else ""
    return widest.removesuffix("F") + with_bf16 + (" and AMX" if "amx_bf16" in flags else "")


def usable_cores() -> int:
    """Return how many cores this process may use."""
    return len(_usable())


def usual_threads() -> int:
    """Return how many threads a program computes in unless it is told otherwise.

    What `OMP_NUM_THREADS` says, or one on each core, where two that share one count once: as torch
    does it.
    """
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    if asked.isdigit() and int(asked) > 0:
        return int(asked)
    return len({_siblings(core) for core in _usable()})


def threads() -> int:
    """Return how many threads torch computes in, or would."""
    torch = sys.modules.get("torch")
    return usual_threads() if torch is None else torch.get_num_threads()


def may_have_card() -> bool:
    """Return whether asking torch for a card can be worth its import; only Linux can say no."""
    return sys.platform != "linux" or any(Path(path).exists() for path in _CARDS)


def _usable() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _siblings(core: int) -> str:
    try:
        return (_CORES / f"cpu{core}" / "topology" / "thread_siblings_list").read_text()
    except OSError:
        return str(core)


@cache
def _flags() -> frozenset[str] | None:
    """Return the names of the instructions of an x86 processor on Linux, None elsewhere."""
    try:
        lines = _CPUINFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    found = (line.partition(":")[2] for line in lines if line.startswith("flags"))
    flags = next(found, None)
    return None if flags is None else frozenset(flags.split())
