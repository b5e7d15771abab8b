"""What the processor can do, told without torch as torch tells it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from diapir.models import processor

TOLD = """
import sys
from diapir.models.processor import has_fast_bf16, instructions, threads, usual_threads

print(has_fast_bf16(), instructions(), threads(), usual_threads())
assert "torch" not in sys.modules
import torch
print(torch.cpu._is_avx512_bf16_supported(), torch.backends.cpu.get_cpu_capability())
print(torch.get_num_threads())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere torch is asked")
@pytest.mark.parametrize("threads", [None, "1"])
def test_torch_says_the_same(threads: str | None) -> None:
    environment = {key: value for key, value in os.environ.items() if "_NUM_THREADS" not in key}
    if threads is not None:
        environment["OMP_NUM_THREADS"] = threads
    command = [sys.executable, "-c", TOLD]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    ours, torchs, number = done.stdout.splitlines()
    bf16, found = torchs.split()
    assert ours.split()[:2] == [bf16, found]
    assert ours.split()[-2:] == [number, number]


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ("sse4_2", "no AVX2"),
        ("avx2", "AVX2"),
        ("avx2 avx512f", "AVX512"),
        ("avx2 avx512f avx512_bf16", "AVX512 with bf16"),
        ("avx2 avx512f avx512_bf16 amx_bf16", "AVX512 with bf16 and AMX"),
    ],
)
def test_instructions(
    flags: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nflags\t\t: fpu {flags} sse\n")
    monkeypatch.setattr(processor, "_CPUINFO", tmp_path / "cpuinfo")
    processor._flags.cache_clear()
    try:
        assert processor.instructions() == told
        assert processor.has_fast_bf16() is ("bf16" in told)
    finally:
        processor._flags.cache_clear()


@pytest.mark.parametrize("text", [None, "Features\t: fp asimd\n"])
def test_where_they_are_not_listed_torch_is_asked(
    text: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if text is not None:
        (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(processor, "_CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    processor._flags.cache_clear()
    try:
        assert processor.instructions() == torch.backends.cpu.get_cpu_capability()
        assert not processor.has_fast_bf16()
    finally:
        processor._flags.cache_clear()


def test_two_threads_of_one_core_count_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for core, siblings in enumerate(["0,2", "1,3", "0,2", "1,3"]):
        (tmp_path / f"cpu{core}" / "topology").mkdir(parents=True)
        (tmp_path / f"cpu{core}" / "topology" / "thread_siblings_list").write_text(siblings)
    monkeypatch.setattr(processor, "_CORES", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3, 4}, raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert processor.usable_cores() == 5
    assert processor.usual_threads() == 3  # of the fifth nothing is known
    monkeypatch.setenv("OMP_NUM_THREADS", "7,2")
    assert processor.usual_threads() == 7


def test_where_there_can_be_no_card_torch_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor.sys, "platform", "linux")
    monkeypatch.setattr(processor, "_CARDS", ())
    assert not processor.may_have_card()
    monkeypatch.setattr(processor, "_CARDS", ("/",))
    assert processor.may_have_card()
    monkeypatch.setattr(processor.sys, "platform", "win32")
    monkeypatch.setattr(processor, "_CARDS", ())
    assert processor.may_have_card()
