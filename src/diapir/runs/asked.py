"""What a command that was typed asked for."""

import shlex
from itertools import pairwise

_OPTIONS = ("--accelerator", "--devices", "--num-nodes")


def asked_hardware(command: str) -> dict[str, str]:
    """Return what a command of `diapir train` asks to train on, by option.

    Args:
        command: As it was typed.

    >>> asked_hardware("diapir train demo --data x --devices 2 --num-nodes=3")
    {'--devices': '2', '--num-nodes': '3'}
    """
    words = [part for word in shlex.split(command) for part in word.split("=", 1)]
    return {word: value for word, value in pairwise(words) if word in _OPTIONS}
