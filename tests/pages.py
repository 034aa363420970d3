"""The pages of the documentation and what they show: files, commands, links."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from hiwm.cli import MULTIRUN
from hiwm.sweep import combinations

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    "analysis/results/README.md",
    *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md")),
]
COMMAND = r"(?:torchrun [^`\n]*-m )?hiwm (?:collect|train|evaluate|report|ladder|run) [^`\n]*"

# less of everything: the tests are of the words, not of the results
QUICK = [
    "training.steps=20", "training.batch=32", "training.evaluate_every=20", "graph.num_nodes=40", "dataset.workers=1",
    "dataset.episodes=12", "evaluation.episodes=1", "evaluation.baseline_episodes=1", "evaluation.num_tasks=1",
    "evaluation.max_steps=40", "tracking=none",
]  # fmt: skip


def read(page: str) -> str:
    return (ROOT / page).read_text()


def sections(page: str) -> dict[str, str]:
    """Heading -> text, for the headings of the second level."""
    parts = re.split(r"^## (.*)$", read(page), flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def files(text: str) -> dict[str, str]:
    """Name -> content of the Python blocks whose first line is their name."""
    return dict(re.findall(r"```python\n# (my_\w+\.py)\n(.*?)```", text, re.S))


def commands(text: str) -> list[list[str]]:
    """Commands of the bash blocks, without comments."""
    blocks = re.findall(r"```bash\n(.*?)```", text, re.S)
    lines = [shlex.split(line, comments=True) for block in blocks for line in block.splitlines()]
    return [line for line in lines if line]


def overrides(page: str) -> list[list[str]]:
    """Overrides of every hiwm command on a page, in blocks and in the text; those with a placeholder (`<...>`, `$@`) are left out."""
    found = [
        shlex.split(text, comments=True)
        for text in re.findall(COMMAND, read(page))
        if "<" not in text and "$@" not in text
    ]
    words = [command[command.index("hiwm") + 2 :] for command in found]
    words = [arguments for arguments in words if not {"--help", "..."} & set(arguments)]
    return [each for arguments in words for each in _runs(arguments)]


def _runs(arguments: list[str]) -> list[list[str]]:
    """The overrides of a command, or of every run of a sweep."""
    if not MULTIRUN & set(arguments):
        return [arguments]
    return [*combinations([argument for argument in arguments if argument not in MULTIRUN])]


def anchors(page: Path) -> set[str]:
    """The names that GitHub gives to the headings of a page."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
    return {
        re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in re.findall(r"^#+ (.*)$", text, re.M)
    }


def links(page: str) -> list[str]:
    return re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", read(page), flags=re.S))
