"""The viewer as a web page: on a FastAPI application of others, or by itself."""

import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from diapir.serve.address import listen
from diapir.serve.viewer.library import Library
from diapir.serve.viewer.state import parse_query

if TYPE_CHECKING:
    from fastapi import FastAPI

_LOOPBACK = "127.0.0.1"
_UNUSED_MS = 300_000  # as long as the page's token is good
_END_S = 1  # how long open pages may hold up the end


def add_viewer(app: "FastAPI", library: Library, *, path: str = "/view") -> None:
    """Mount the viewer's page on an application.

    Nothing comes from another host: scripts and styles are served from Panel's own files.

    Args:
        app: Takes the page at `path`, its socket beside it, and `/static` for scripts and styles.
            Who may come in is for the application to say.
        library: What is shown.
        path: Of the page.
    """
    import panel as pn
    from panel.io.fastapi import add_applications

    pn.extension(design="native", notifications=False)

    def make_page() -> Any:
        from diapir.serve.viewer.page import Page

        asked = parse_query(pn.state.location.search)
        dark = asked.pop("theme", "") == "dark"
        pn.config.theme = "dark" if dark else "default"
        return Page(library, dark=dark, wanted=asked).template()

    # signed sessions: a page of another site cannot make up one and drive the viewer through it
    add_applications(
        {path: make_page},
        app=app,
        title="Diapir",
        secret_key=secrets.token_bytes(32),
        sign_sessions=True,
        # else a browser that takes longer to load the page than that finds its session gone
        unused_session_lifetime_milliseconds=_UNUSED_MS,
    )


def viewer_app(library: Library) -> "FastAPI":
    """Return an application that is the viewer alone, for this machine alone.

    Args:
        library: What is shown.
    """
    from fastapi import FastAPI
    from fastapi.responses import Response
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/favicon.ico", include_in_schema=False)
    def icon() -> Response:
        return Response(status_code=204)

    add_viewer(app, library, path="/")
    # else a page of strangers, whose name leads to this machine, may read the answers; last, and so
    # outermost: newer releases of Panel answer from a middleware of their own
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[_LOOPBACK, "localhost"])
    return app


def run_viewer(library: Library, *, port: int = 0, ready: Callable[[str], None]) -> None:
    """Serve the viewer on this machine until Ctrl-C.

    Args:
        library: What is shown; closed at the end.
        port: 0: any free one.
        ready: Called with the address once the page can be asked for.

    Raises:
        RunError: The port is taken.
    """
    import uvicorn

    listener = listen(_LOOPBACK, port)
    config = uvicorn.Config(
        viewer_app(library),
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_END_S,
    )
    try:
        ready(f"http://{_LOOPBACK}:{listener.getsockname()[1]}/")
        uvicorn.Server(config).run(sockets=[listener])
    finally:
        listener.close()
        library.close()
