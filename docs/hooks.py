"""Adds the pages outside docs/ to the site, and gives links into the repository a place on it.

The pages are written for GitHub, where `../levels/parts.py` leads to a file. On the site, such a link leads to the page that
shows the file, or becomes plain text if none does.
"""

from __future__ import annotations

import re
from fnmatch import fnmatch
from pathlib import Path
from posixpath import dirname, join, normpath, relpath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = "api/configs.md"
LINK = re.compile(r"(?P<code>^```.*?^```)|(?P<image>!?)\[(?P<text>[^\]]*)\]\((?P<link>[^)\s]+)\)", re.M | re.S)

#: file of the repository outside docs/ -> its place on the site
PLACES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
PLACES["analysis/results/README.md"] = "results.md"
for folder, pattern in (("results", "*.png"), ("notebooks", "*.ipynb")):
    for path in sorted((ROOT / "analysis" / folder).glob(pattern)):
        PLACES[f"analysis/{folder}/{path.name}"] = f"{folder}/{path.name}"


def on_config(config: MkDocsConfig) -> None:
    """Expand patterns in the navigation to the pages that no entry names."""
    pages = [*sorted(path.name for path in ROOT.glob("docs/*.md")), *PLACES.values()]
    named = {page for page in pages if re.search(rf"'{re.escape(page)}'", str(config.nav))}
    for section in config.nav or []:
        for title, entries in section.items():
            if isinstance(entries, list):
                found = [[p for p in pages if fnmatch(p, e) and p not in named] if "*" in e else [e] for e in entries]
                section[title] = [page for each in found for page in each]


@event_priority(50)  # before mkdocs-jupyter
def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add the files outside docs/."""
    for source, place in PLACES.items():
        if source == f"analysis/{place}":  # mkdocs-jupyter takes no generated file
            files.append(File(place, str(ROOT / "analysis"), config.site_dir, config.use_directory_urls))
        else:
            files.append(File.generated(config, place, abs_src_path=str(ROOT / source)))


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links into the repository to the page of the site that shows the file."""
    place = page.file.src_uri
    source = next((source for source, own in PLACES.items() if own == place), f"docs/{place}")
    objects = _objects()

    def on_site(match: re.Match[str]) -> str:
        path, _, anchor = (match["link"] or "").partition("#")
        if match["code"] or not path or ":" in path:
            return match[0]
        path, text = normpath(join(dirname(source), path)), match["text"]
        to = PLACES.get(path)
        if path in objects:
            return f"[{text}][{objects[path]}]"
        if path.startswith("configs/"):
            to, anchor = CONFIGS, _anchor(path.removeprefix("configs/"))
        if path.startswith("docs/") and not path.endswith(".py"):
            to = path.removeprefix("docs/")
        if to:
            return f"{match['image']}[{text}]({relpath(to, dirname(place) or '.')}{anchor and '#' + anchor})"
        if path.endswith(text.strip("`")):
            return f"`{path}`"
        return text if "`" in text else f"{text} (`{path}`)"

    return LINK.sub(on_site, markdown) + (_configs() if place == CONFIGS else "")


def _anchor(path: str) -> str:
    return path.removesuffix(".yaml").replace("/", "-")


def _objects() -> dict[str, str]:
    """File of the repository -> the first object in it that a page of the API documents."""
    found: dict[str, str] = {}
    for page in sorted(ROOT.glob("docs/api/*.md")):
        for name in re.findall(r"^::: (\S+)", page.read_text(), re.M):
            folder = name.replace(".", "/")
            path = f"{folder}/__init__.py" if (ROOT / folder).is_dir() else f"{dirname(folder)}.py"
            found.setdefault(re.sub(r"^hiwm/(levels|data|analysis)/", r"\1/", path), name)
    return found


def _configs() -> str:
    """Every file of configs/, those of a group under its name."""
    text = ""
    for path in sorted((ROOT / "configs").rglob("*.yaml"), key=lambda path: (len(path.parts), path)):
        name, group = str(path.relative_to(ROOT / "configs")), path.parent.name
        if "/" in name and f"{{#{group}}}" not in text:
            text += f"\n## {group} {{#{group}}}\n"
        text += f"\n##{'#' * name.count('/')} `{name}` {{#{_anchor(name)}}}\n\n```yaml\n{path.read_text()}```\n"
    return text
