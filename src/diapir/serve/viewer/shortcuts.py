"""What the keys do that do not step through sections."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import panel as pn

from diapir.io.labels import UNLABELLED
from diapir.serve.viewer.bridge import Keys
from diapir.serve.viewer.correct import CorrectControls
from diapir.serve.viewer.section import SectionView
from diapir.serve.viewer.state import LAYERS

_LAYER_KEYS = dict(zip("fohdtc", LAYERS.values(), strict=True))
_ARROWS = {"ArrowLeft": (-1, 0), "ArrowRight": (1, 0), "ArrowUp": (0, -1), "ArrowDown": (0, 1)}


class Shortcuts:
    """The keys of a page.

    Args:
        view: The section.
        correct: What is drawn on it.
        safely: Runs an action and shows what goes wrong.
        predict: Predicts what is shown.
        turn_view: Goes from the gallery to the tile and back.
    """

    def __init__(
        self,
        view: SectionView,
        correct: CorrectControls,
        safely: Callable[[Callable[[], Any]], None],
        predict: Callable[[], Awaitable[None]],
        turn_view: Callable[[], None],
    ) -> None:
        self._view = view
        self._correct = correct
        self._safely = safely
        self._keys: Keys | None = None
        figure = view.figure
        self._drawing = self._of_cursor()
        self._actions: dict[str, Callable[[], Any]] = {
            "+": lambda: figure.move(zoom=1.25),
            "=": lambda: figure.move(zoom=1.25),
            "-": lambda: figure.move(zoom=0.8),
            "0": figure.fit,
            "shift+ArrowLeft": lambda: figure.move(across=-0.1),
            "shift+ArrowRight": lambda: figure.move(across=0.1),
            "shift+ArrowUp": lambda: figure.move(down=0.1),
            "shift+ArrowDown": lambda: figure.move(down=-0.1),
            "[": lambda: self._nudge(-0.02),
            "]": lambda: self._nudge(0.02),
            "v": lambda: view.state.param.update(reverse=not view.state.reverse),
            "p": predict,
            "g": turn_view,
            **self._correcting(),
            **{key: partial(self._toggle, layer) for key, layer in _LAYER_KEYS.items()},
            **{key: partial(self._turn, place) for place, key in enumerate("123")},
        }

    def keys(self, step: Callable[[int], None]) -> Keys:
        """Return what listens to the keys in the browser.

        Args:
            step: Called with how many sections to go on.
        """
        self._keys = Keys(
            step, self._press, keys=sorted(self._actions), drawing=sorted(self._drawing)
        )
        return self._keys

    def _press(self, key: str) -> None:
        action = self._drawing[key] if key in self._drawing else self._actions[key]
        if asyncio.iscoroutinefunction(action):
            pn.state.execute(action)
        else:
            self._safely(action)

    def _correcting(self) -> dict[str, Callable[[], Any]]:
        """Return what the keys do that correct."""
        correct = self._correct
        return {
            "k": partial(self._turn_cursor, correct.cursor.toggle),
            "u": correct.take_back,
            "s": correct.store,
            "a": lambda: correct.choose(1),
            "r": lambda: correct.choose(0),
            "e": lambda: correct.choose(UNLABELLED),
        }

    def _of_cursor(self) -> dict[str, Callable[[], Any]]:
        """Return what the keys do that draw with the cursor; without it they are the browser's."""
        cursor = self._correct.cursor
        actions: dict[str, Callable[[], Any]] = {
            "Escape": partial(self._turn_cursor, cursor.leave),
            "Enter": cursor.corner,
            "shift+Enter": cursor.finish,
        }
        for name, (across, down) in _ARROWS.items():
            for prefix, far in (("", 1), ("alt+", 10)):
                actions[prefix + name] = partial(cursor.move, across * far, down * far)
        return actions

    def _turn_cursor(self, turn: Callable[[], None]) -> None:
        try:
            turn()
        finally:
            if self._keys is not None:
                self._keys.cursor = self._correct.cursor.is_on

    def _nudge(self, change: float) -> None:
        state = self._view.state
        state.threshold = round(min(1.0, max(0.0, state.threshold + change)), 2)

    def _toggle(self, layer: str) -> None:
        state = self._view.state
        shown = state.layers
        state.layers = [one for one in shown if one != layer] if layer in shown else [*shown, layer]

    def _turn(self, place: int) -> None:
        directions = self._view.source.directions
        if place < len(directions):
            self._view.state.direction = directions[place]
