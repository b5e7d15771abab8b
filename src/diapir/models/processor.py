"""What this machine's processor can do."""

import torch


def has_fast_bf16() -> bool:
    """Return whether the processor has instructions for bf16; without, bf16 takes far longer."""
    return torch.cpu._is_avx512_bf16_supported()


def instructions() -> str:
    """Return the widest instructions that torch uses here, and whether there are some for bf16.

    Returns:
        Such as 'AVX2' or 'AVX512 with bf16'.
    """
    found = torch.backends.cpu.get_cpu_capability()
    return f"{found} with bf16" if has_fast_bf16() else found
