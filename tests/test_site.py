"""The documentation site builds without a warning, shows every page and every public name, and none of its links is dead."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pages
import pytest

import hiwm

LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}
VERBATIM = {"code", "pre", "script", "style", "title"}
TAGS = {
    "a", "article", "b", "body", "button", "clipboard-copy", "code", "details", "kbd", "div", "em", "footer", "form", "h1", "h2", "h3", "h4",
    "head", "header", "hr", "html", "img", "input", "label", "li", "link", "main", "meta", "nav", "ol", "p", "path", "pre", "script",
    "small", "span", "strong", "style", "summary", "svg", "table", "tbody", "td", "th", "thead", "title", "tr", "ul",
}  # fmt: skip


class Html(HTMLParser):
    """The anchors, links, loaded files and running text of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.text = ""
        self.verbatim = 0
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.tags.add(tag)
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        self.verbatim += tag in VERBATIM
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if (name := LOADED.get(tag)) in given:
            self.loaded.append(given[name])

    def handle_endtag(self, tag: str) -> None:
        self.verbatim -= tag in VERBATIM

    def handle_data(self, data: str) -> None:
        self.text += "" if self.verbatim else data


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    environment = {name: value for name, value in os.environ.items() if name != "HIWM_EXECUTE"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=pages.ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr  # with --quiet, a warning would be no error
    return folder


@pytest.fixture(scope="module")
def html(site) -> dict[Path, Html]:
    # 404.html is for servers: its links begin at the root
    return {path: Html(path) for path in site.rglob("*.html") if path.name != "404.html"}


def test_every_page_is_on_it(site):
    other = {"README.md": "index", "analysis/results/README.md": "results"}
    for page in pages.PAGES:
        assert (site / f"{other.get(page, Path(page).stem.lower())}.html").exists(), page
    for notebook in pages.ROOT.glob("analysis/notebooks/*.ipynb"):
        assert (site / "notebooks" / f"{notebook.stem}.html").exists(), notebook


def test_every_page_is_in_the_navigation(site, html):
    menu = re.findall(r'href="([^"#]+)" class="md-nav__link', (site / "results.html").read_text())
    listed = {(site / link).resolve() for link in menu} | {site / "results.html"}
    assert set(html) <= listed


def test_no_link_is_dead(html):
    seen = 0
    for path, page in html.items():
        for link in [*page.links, *page.loaded]:
            parts = urlsplit(link)
            if parts.scheme in ("http", "https", "data"):
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert target.is_file(), f"{path.name}: {link}"
            anchor = unquote(parts.fragment)
            assert not anchor or anchor in html[target].anchors, f"{path.name}: {link}"
            seen += 1
    assert seen > 1000


def test_nothing_is_loaded_from_elsewhere(site, html):
    assert [
        link for page in html.values() for link in page.loaded if "//" in link and not link.startswith("data:")
    ] == []
    for path in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*[\"']?(https?:)?//", path.read_text()), path


def test_the_api_shows_every_public_name(site, html):
    assert {f"hiwm.{name}" for name in dir(hiwm)} <= html[site / "api" / "agent.html"].anchors


def test_the_api_shows_every_base_class(html):
    table = pages.read("README.md").split("## Extend it")[1].split("##")[0]
    classes = set(re.findall(r"`(hiwm\.[\w.]+\.[A-Z]\w+)`", table))
    assert len(classes) == 8
    assert classes <= {anchor for page in html.values() for anchor in page.anchors}


def test_markdown_of_github_is_rendered(html):
    """Python-Markdown reads some Markdown otherwise than GitHub: a list needs an empty line before it, for instance."""
    for path, page in html.items():
        found = re.search(r"\n[-*] |\]\(|\*\*|```|\|--|::: ", page.text)
        assert not found, f"{path.name}: {page.text[max(0, found.start() - 80) : found.end() + 80]}"


def test_no_placeholder_is_lost(html):
    """A placeholder such as <name> outside of code is an unknown tag, which a browser does not show."""
    for path, page in html.items():
        assert page.tags <= TAGS, path.name
