"""What every verb does before its work begins: it looks at its numbers."""

import math
from collections.abc import Iterator
from typing import Any

from typer.core import TyperCommand

from diapir.errors import OptionError


class Verb(TyperCommand):
    """A verb that refuses `nan` and `inf`: comparing with the ends of a range finds not all."""

    def invoke(self, ctx: Any) -> Any:
        """Run the verb, unless one of its numbers is none."""
        for option in self.params:
            for number in _floats(ctx.params.get(str(option.name))):
                if not math.isfinite(number):
                    raise OptionError(
                        f"{number} is no number to work with",
                        max(option.opts, key=len).lstrip("-").replace("-", "_"),
                        expected="a finite number",
                        mend="Give another one, or leave the option out.",
                    )
        return super().invoke(ctx)


def _floats(value: Any) -> Iterator[float]:
    """Yield the floats of an option, which may be given several times or take several values."""
    if isinstance(value, float):
        yield value
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _floats(each)
