"""The viewer as a web page: on a FastAPI application of others, or by itself."""

import secrets
from typing import TYPE_CHECKING, Any

from diapir.serve.viewer_library import Library
from diapir.serve.viewer_state import parse_query

if TYPE_CHECKING:
    from fastapi import FastAPI


def add_viewer(app: "FastAPI", library: Library, *, path: str = "/view") -> None:
    """Mount the viewer's page on an application.

    Nothing comes from another host: scripts and styles are served from Panel's own files.

    Args:
        app: Takes the page at `path`, its socket, and `/static` for scripts and styles.
        library: What is shown.
        path: Of the page.
    """
    import panel as pn
    from panel.io.fastapi import add_applications

    pn.extension(design="native", notifications=False)

    def make_page() -> Any:
        from diapir.serve.viewer_page import Page

        asked = parse_query(pn.state.location.search)
        dark = asked.pop("theme", "") == "dark"
        pn.config.theme = "dark" if dark else "default"
        page = Page(library, dark=dark, wanted=asked)
        page.link(pn.state.location)
        return page.template()

    # signed sessions: a page of another site cannot make up one and drive the viewer through it
    add_applications(
        {path: make_page},
        app=app,
        title="Diapir",
        secret_key=secrets.token_bytes(32),
        sign_sessions=True,
    )
