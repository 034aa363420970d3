"""A small trained experiment that ships with hiwm: `experiment=example`, with its dataset, levels and results."""

from __future__ import annotations

import shutil
import sys
from importlib.resources import as_file, files
from pathlib import Path

from hiwm.agent import CONFIG, HIERARCHY, Agent, load_agent
from hiwm.files import LEVELS, read_yaml, write_yaml
from hiwm.hierarchy import load_specs
from hiwm.locks import locked
from hiwm.training.checkpoint import METRICS, WEIGHTS

NAME = "example"  # of the experiment
DATASET = Path("datasets") / f"{NAME}.h5"
FOLDER = "example_run"  # in the package
SHIPPED = ("config.yaml", "levels.json", "evaluation.json", "evaluation.npz", HIERARCHY)  # of the run
SHIPPED_OF_LEVEL = (METRICS, "history.jsonl", "level.yaml")  # the weights are in the hierarchy


def load_example(root: str | Path = "runs") -> Agent:
    """The agent of the experiment that ships with hiwm.

    Args:
        root: folder of results. The experiment is copied to `<root>/example/`, its dataset and levels beside it, unless it is there;
            every command and notebook can then use it, for instance `hiwm report experiment=example`.
    """
    run = Path(root) / NAME
    with locked(run), as_file(files("hiwm") / FOLDER) as shipped:
        if not (run / CONFIG).exists():
            _copy(shipped, Path(root))
    return load_agent(run)


def _copy(shipped: Path, root: Path) -> None:
    """Put the shipped files where the commands expect them."""
    run = root / NAME
    later = shutil.ignore_patterns(CONFIG)  # the sign that all is there
    for folder in (LEVELS, NAME, DATASET.parent):
        shutil.copytree(shipped / folder, root / folder, dirs_exist_ok=True, ignore=later)
    for k, spec in enumerate(load_specs(run / HIERARCHY)):
        shutil.copy(run / HIERARCHY / f"level{k}.safetensors", root / LEVELS / spec.fingerprint / WEIGHTS)
    _say_where(shipped / NAME, run, root)


def _say_where(source: Path, run: Path, root: Path) -> None:
    """Write the configuration of a run, with another root of the results."""
    for path in (Path(HIERARCHY) / CONFIG, Path(CONFIG)):
        config = read_yaml(source / path)
        config["dataset"]["path"] = str(root / DATASET)
        write_yaml(run / path, {**config, "root": str(root)})


def ship(root: Path) -> None:
    """Put a finished `experiment=example` into the package, with the files that `load_example` needs."""
    home = Path(__file__).parent / FOLDER
    shutil.rmtree(home, ignore_errors=True)
    (home / NAME).mkdir(parents=True)
    for name in SHIPPED:
        path = root / NAME / name
        (shutil.copytree if path.is_dir() else shutil.copy)(path, home / NAME / name)
    for spec in load_specs(root / NAME / HIERARCHY):
        (home / LEVELS / spec.fingerprint).mkdir(parents=True)
        for name in SHIPPED_OF_LEVEL:
            shutil.copy(root / LEVELS / spec.fingerprint / name, home / LEVELS / spec.fingerprint / name)
    (home / "datasets").mkdir()
    shutil.copy(root / DATASET, home / DATASET)
    _say_where(home / NAME, home / NAME, Path("runs"))


if __name__ == "__main__":
    ship(Path(sys.argv[1]))
