"""What a result was obtained with, and how the allocator is set for a training."""

import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import numpy as np
from diapir.runs.machine import keep_freed_memory

if sys.argv[1] == "kept":
    keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
np.ones(2**24)
before = faults()
for _ in range(5):
    np.ones(2**24)  # 128 MiB, above any threshold from which glibc maps by itself
print(faults() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="sets glibc's allocator")
def test_freed_memory_is_not_cleared_again():
    def pages(how: str) -> int:
        command = [sys.executable, "-c", FAULTS, how]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        return int(done.stdout)

    assert pages("kept") < pages("plain") / 10
