"""Answers that keep the seat of their request until they are sent."""

import asyncio
from collections.abc import Callable

from fastapi.responses import Response
from starlette.types import Receive, Scope, Send

from diapir.serve.problems import LOG

_PART_BYTES = 256 << 10  # above what the server buffers: sending the next one waits for this one
_SLOWEST = 64 << 10  # bytes a second that a client must take of a long answer


class SeatedAnswer(Response):
    """An answer that is sent in parts, and gives something back when it is sent or given up.

    The server takes a whole body at once, however slowly the client reads it: only before a further
    part does it wait for those before.

    Args:
        answer: What is sent.
        release: Called once at the end, whatever the end is.
        seconds: How long the client may take, beside what its size adds.
    """

    def __init__(self, answer: Response, release: Callable[[], None], seconds: float) -> None:
        super().__init__(answer.body, answer.status_code, media_type=answer.media_type)
        self._release = release
        self._seconds = seconds + len(self.body) / _SLOWEST

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        try:
            async with asyncio.timeout(self._seconds):
                await self._send(send)
        except TimeoutError:  # returning too early makes the server close the connection
            LOG.warning("a client did not take its answer within %.0f seconds", self._seconds)
        finally:
            self._release()

    async def _send(self, send: Send) -> None:
        start = {"status": self.status_code, "headers": self.raw_headers}
        await send({"type": "http.response.start", **start})
        body = bytes(self.body)
        for place in range(0, len(body), _PART_BYTES):
            part = body[place : place + _PART_BYTES]
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
