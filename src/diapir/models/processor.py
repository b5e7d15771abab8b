"""What this machine's processor can do."""

import torch

from diapir.errors import RunError


def has_fast_bf16() -> bool:
    """Return whether the processor has instructions for bf16; without, bf16 takes far longer."""
    return torch.cpu._is_avx512_bf16_supported()


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
            mend="Leave it away: 'auto' takes bf16 where it is the faster one.",
        )


def instructions() -> str:
    """Return the widest instructions that torch uses here, and whether there are some for bf16.

    Returns:
        Such as 'AVX2' or 'AVX512 with bf16'.
    """
    found = torch.backends.cpu.get_cpu_capability()
    return f"{found} with bf16" if has_fast_bf16() else found
