"""What the pages share: style, the choice of light or dark, pictures within the page."""

from __future__ import annotations

import base64
from importlib.resources import files

from markupsafe import Markup


def asset(name: str) -> Markup:
    """The text of a file of this package, to be put into a page as it is."""
    return Markup(files("hiwm.analysis").joinpath(name).read_text())


def assets() -> dict[str, Markup]:
    """Values that the templates of all pages take."""
    return {"page_css": asset("page.css"), "theme_js": asset("theme.js")}


def inline(png: bytes) -> str:
    """The address of a picture that is part of the page."""
    return "data:image/png;base64," + base64.b64encode(png).decode()
