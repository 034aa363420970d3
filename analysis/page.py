"""What the pages share: style, the choice of light or dark, pictures within the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from markupsafe import Markup
from PIL import Image


def asset(name: str) -> Markup:
    """The text of a file of this package, to be put into a page as it is."""
    return Markup(files("hiwm.analysis").joinpath(name).read_text())


def assets() -> dict[str, Markup]:
    """Values that the templates of all pages take."""
    return {"page_css": asset("page.css"), "theme_js": asset("theme.js")}


def inline(png: bytes) -> str:
    """The address of a picture that is part of the page: the smaller of two kinds of WebP, each a fraction of the PNG.

    Lines and text are smaller, and stay exact, with 256 colours; photographs and thousands of faint lines are smaller with loss.
    """
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    drawn = _webp(picture.quantize(256, dither=Image.Dither.NONE).convert("RGB"), lossless=True)
    content = min(drawn, _webp(picture, quality=90), key=len)
    return "data:image/webp;base64," + base64.b64encode(content).decode()


def fitting(pictures: Mapping[str, str], space: int) -> dict[str, str]:
    """Those of the addresses that fit into so many bytes: as many as possible, so the largest are left out."""
    kept = {}
    for name in sorted(pictures, key=lambda name: len(pictures[name])):
        space -= len(pictures[name])
        if space < 0:
            break
        kept[name] = pictures[name]
    return kept


def _webp(picture: Image.Image, **options: Any) -> bytes:
    written = io.BytesIO()
    picture.save(written, "WEBP", **options)
    return written.getvalue()
