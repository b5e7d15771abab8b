"""The viewer as a web page: on a FastAPI application of others, or by itself."""

import json
import secrets
from typing import TYPE_CHECKING, Any

from diapir.serve.viewer_library import Library

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

        asked = _asked()
        dark = asked.pop("theme", "") == "dark"
        pn.config.theme = "dark" if dark else "default"
        page = Page(library, dark=dark, wanted=asked)
        page.link()
        return page.template()

    # signed sessions: a page of another site cannot make up one and drive the viewer through it
    add_applications(
        {path: make_page},
        app=app,
        title="Diapir",
        secret_key=secrets.token_bytes(32),
        sign_sessions=True,
    )


def _asked() -> dict[str, Any]:
    """Return the settings in the address of the page; values are JSON where they can be."""
    import panel as pn

    found: dict[str, Any] = {}
    for name, values in (pn.state.session_args or {}).items():
        text = values[-1].decode("utf-8", "replace")
        try:
            found[name] = json.loads(text)
        except ValueError:
            found[name] = text
    return found
