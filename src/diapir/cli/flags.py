"""Sets of flags that several verbs share, each handed to the verb as one object."""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

Verb = Callable[..., None]


def takes_flags(
    name: str, flags: Sequence[inspect.Parameter], make: Callable[[dict[str, Any]], Any]
) -> Callable[[Verb], Verb]:
    """Return a decorator for verbs with a keyword that stands for a set of flags.

    Args:
        name: Of the keyword.
        flags: What takes its place on the command line.
        make: Makes what the verb is given from the values of the flags.
    """

    def decorate(verb: Verb) -> Verb:
        plain = inspect.signature(verb, eval_str=False)
        parameters = [*(p for p in plain.parameters.values() if p.name != name), *flags]

        @functools.wraps(verb)
        def wrapper(**values: Any) -> None:
            chosen = {flag.name: values.pop(flag.name) for flag in flags}
            verb(**values, **{name: make(chosen)})

        del wrapper.__wrapped__
        wrapper.__signature__ = plain.replace(parameters=parameters)  # type: ignore[attr-defined]
        wrapper.__annotations__ = {p.name: p.annotation for p in parameters} | {"return": None}
        return wrapper

    return decorate
