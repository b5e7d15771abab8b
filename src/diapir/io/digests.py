"""What a file is known by."""

import hashlib
import os
from pathlib import Path

import numpy as np

_SAMPLED_BLOCKS, _SAMPLED_BYTES = 64, 1 << 16


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal digits.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_fingerprint(path: Path) -> str:
    """Return a hash of a file's size and of blocks spread over it; quick for any size.

    It takes 64 blocks of 64 KiB, the first and the last included; files up to 4 MiB whole.
    """
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    last = max(0, size - _SAMPLED_BYTES)
    with path.open("rb") as file:
        for offset in np.unique(np.linspace(0, last, _SAMPLED_BLOCKS).astype(np.int64)):
            file.seek(int(offset), os.SEEK_SET)
            digest.update(file.read(_SAMPLED_BYTES))
    return digest.hexdigest()
