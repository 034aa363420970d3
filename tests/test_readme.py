"""The README's own code: every file it shows is written, every command it gives is run, in a folder of its own."""

import re
import shlex
import sys
from pathlib import Path

import pytest

from hiwm.cli import main

README = (Path(__file__).parents[1] / "README.md").read_text()
FILES = dict(re.findall(r"```python\n# (my_\w+\.py)\n(.*?)```", README, re.S))
COMMANDS = re.findall(r"```bash\n(.*?)```", README, re.S)
QUICK = [
    "training.steps=20", "training.batch=32", "training.evaluate_every=20", "graph.num_nodes=40", "dataset.workers=1",
    "evaluation.episodes=2", "evaluation.max_steps=60", "tracking=none",
]  # fmt: skip


def quick(command: str) -> list[str]:
    """The command's arguments, with less of everything: the test is of the words, not of the result."""
    arguments = shlex.split(command)
    assert arguments.pop(0) == "hiwm"
    return [*arguments, *QUICK, *(["dataset.episodes=12"] if arguments[0] == "run" else [])]


def test_the_readme_has_the_snippets_it_promises():
    assert set(FILES) == {"my_world.py", "my_data.py", "my_parts.py"}
    assert len(COMMANDS) == 3


def test_readme_snippets_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, text in FILES.items():
        Path(name).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    exec(compile(FILES["my_data.py"], "my_data.py", "exec"), {})
    for command in COMMANDS:
        assert main(quick(command)) == 0, capsys.readouterr().err
    assert Path("runs/room/evaluation.json").exists()
    assert Path("runs/room/report.html").exists()
    saved = Path("runs/fourier/hierarchy/hierarchy.yaml").read_text()
    assert "my_parts.FourierEncoder" in saved
    for module in ("my_world", "my_parts"):
        sys.modules.pop(module, None)


@pytest.mark.parametrize("page", ["README.md", "analysis/results/README.md"])
def test_links_lead_somewhere(page):
    path = Path(__file__).parents[1] / page
    text = path.read_text()
    headings = {
        re.sub(r"[^\w -]", "", line.lstrip("# ")).lower().replace(" ", "-")
        for line in text.splitlines()
        if line[:1] == "#"
    }
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if not link.startswith("http")]
    assert len(links) > 5
    for link in links:
        file, _, heading = link.partition("#")
        assert (path.parent / file).exists(), link
        assert file or heading in headings, link


@pytest.mark.parametrize(
    ("overrides", "levels"),
    [
        (["~levels.level2"], 2),
        (
            [
                "levels.level1.stride=5", "+level@levels.level3=abstract", "+planner@planner.level3=level",
                *(f"planner.level{k}.horizon={steps}" for k, steps in enumerate((5, 3, 2, 2))), "planner.level3.replan=10",
            ],
            4,
        ),
    ],
)  # fmt: skip
def test_other_depths_compose(overrides, levels):
    from hiwm.config import load_config
    from hiwm.planning.validate import check_config

    config = load_config(["experiment=pointmaze", *overrides])
    check_config(config.planner, levels)
    assert len(config.stack.levels) == levels
