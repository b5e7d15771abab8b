"""The machine and this process on it: what they are in words, and how they are set up."""

import ctypes
import os
import platform
import shlex
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from diapir.models.processor import instructions, may_have_card, threads, usable_cores


def describe_machine() -> str:
    """Return processor, cores, threads, memory and cards, without names of hosts or users."""
    parts = [f"{_processor()} ({instructions()})"]
    parts.append(f"{usable_cores()} cores, threads used: {threads()}")
    parts.append(f"{_memory_gib():.0f} GiB memory")
    if may_have_card():
        import torch

        if torch.cuda.is_available():
            parts.append(f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}")
    return ", ".join(parts)


def command_line() -> str:
    """Return the command that runs now, as one would type it again."""
    program, *arguments = sys.argv
    name = Path(program).name
    shown = "python -m diapir" if name == "__main__.py" else name
    return shlex.join([*shown.split(), *arguments])


def when_orphaned(parent: int, act: Callable[[], object]) -> None:
    """Call a function once the process that started this one is gone, however it ended.

    Args:
        parent: Its number.
        act: Called within a second or two, in a thread of its own.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        act()

    threading.Thread(target=watch, daemon=True).start()


def keep_freed_memory() -> None:
    """Let glibc keep what is freed for the next allocation, where it is the allocator.

    By default it maps every large tensor anew and gives it back at once, so that the kernel clears
    the same gigabytes again in every training step, a tenth of the time on two cores, and in every
    pass over large images, a third. The peak stays as it is, what is free then stays with the
    process: for commands that end, not for services.

    Source: mallopt(3); the numbers are those of glibc's malloc.h.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_M_TOP_PAD, 2**26)


_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def _memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
