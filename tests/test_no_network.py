"""Nothing goes online: a whole run in a process in which every connection is an error."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from diapir.data.competition import write_competition
from diapir.io.tiles import Tiles

GUARD = """
import sys
from diapir.cli import main

def refuse(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto", "urllib.Request"):
        raise RuntimeError(f"went online: {event} {arguments}")

sys.addaudithook(refuse)
"""
RUN = """
for line in sys.argv[1:]:
    sys.argv = ["diapir", *line.split()]
    try:
        main()
    except SystemExit as end:
        if end.code:
            raise
"""
ONLINE = "import socket; socket.create_connection(('localhost', 9))"


def test_a_whole_run_opens_no_connection(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (24, 16, 16)).astype(np.uint8)
    masks = (images > 127).astype(np.uint8)
    ids = tuple(f"t{k}" for k in range(24))
    train, test = Tiles(ids[:20], images[:20], masks[:20], None, "a"), images[20:]
    write_competition(tmp_path / "data", train, Tiles(ids[20:], test, None, None, "b"))
    (tmp_path / "r.toml").write_text(
        '[model]\nencoder = "scratch"\nscratch_channels = [2, 4]\ndecoder_channels = [2]\n'
        '[split]\nstratify = "none"\n[train]\nepochs = 1\nbatch_size = 4\n',
        encoding="utf-8",
    )
    from diapir.config import load_recipe
    from diapir.models.modelcard import ModelCard
    from diapir.models.modelfile import save_model
    from diapir.models.unet import SaltNet

    recipe = load_recipe(str(tmp_path / "r.toml"))
    save_model(tmp_path / "m.safetensors", SaltNet(recipe.model), ModelCard(recipe, 0.5))
    lines = [
        "train r.toml --data data --runs runs --accelerator cpu --quiet",
        "evaluate m.safetensors --data data --out scores --quiet",
        "submit m.safetensors --data data --out s.csv --quiet",
        "predict m.safetensors data/test/images masks --quiet",
    ]
    command = [sys.executable, "-c", GUARD + RUN, *lines]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "s.csv").is_file()


def test_the_guard_would_notice(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", GUARD + ONLINE], capture_output=True, text=True)
    assert "went online" in done.stderr
