"""The command `hiwm levels`: the trained levels that experiments share, who uses them, and removing what nobody uses."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hiwm.console import say
from hiwm.files import LEVELS, read_json, read_yaml, write_json
from hiwm.locks import is_locked, locked
from hiwm.training.checkpoint import CHECKPOINT, DESCRIPTION, METRICS, load_metrics

USED = "levels.json"  # fingerprints of the levels of a run, in its folder
SHOWN = ("copy_last", "state_probe_r2", "rank_share")  # of the last validation
MOST_USERS = 3  # that the list names; `show` names all


@dataclass(frozen=True)
class StoredLevel:
    """A level, or a pretrained trunk, in the folder that experiments share.

    Args:
        home: its folder, named by its fingerprint.
        description: what it was made from (`level.yaml`); empty for a trunk.
        users: folders of the runs that have it, relative to the root.
    """

    home: Path
    description: dict[str, Any]
    users: Sequence[str]

    @property
    def finished(self) -> bool:
        return not any(self.home.rglob(CHECKPOINT))  # of the level, or of its dynamics

    @property
    def size(self) -> int:
        """Bytes, with its cached latents."""
        return sum(path.stat().st_size for path in self.home.rglob("*") if path.is_file())

    def state(self) -> str:
        """How far its training is, in words."""
        if is_locked(self.home):
            return "in use"
        if not self.finished:
            return "interrupted"
        if not (self.home / METRICS).exists():
            return "trained" if not self.description else "not trained"
        metrics = load_metrics(self.home)
        return ", ".join(f"{name} {metrics[name]:.3g}" for name in SHOWN if name in metrics)


def note_levels_to_train(folder: Path, fingerprints: Sequence[str]) -> None:
    """Note in a run's folder which levels it will have, so that nobody removes them.

    Those noted before stay: the hierarchy of an earlier command has them until `note_levels` replaces the list.
    """
    path = folder / USED
    before = read_json(path)["levels"] if path.exists() else []
    note_levels(folder, [*dict.fromkeys([*before, *fingerprints])])


def note_levels(folder: Path, fingerprints: Sequence[str]) -> None:
    """Note in a run's folder which levels its saved hierarchy has."""
    write_json(folder / USED, {"levels": list(fingerprints)})


def stored_levels(root: Path) -> list[StoredLevel]:
    """All levels under a root of results, lower levels first.

    Raises:
        ValueError: there are none.
    """
    homes = [path for path in (root / LEVELS).glob("*") if path.is_dir()]
    if not homes:
        raise ValueError(f"{root / LEVELS} has no trained levels; expected root=<the folder of the results>")
    users: dict[str, list[str]] = {}
    for path in sorted([*root.glob(f"*/{USED}"), *root.glob(f"*/*/{USED}")]):
        for name in read_json(path)["levels"]:
            users.setdefault(name, []).append(str(path.parent.relative_to(root)))
    described = [read_yaml(home / DESCRIPTION) if (home / DESCRIPTION).exists() else {} for home in homes]
    levels = [StoredLevel(home, what, users.get(home.name, ())) for home, what in zip(homes, described, strict=True)]
    return sorted(levels, key=lambda level: (level.description.get("level", -1), level.home.name))


def show(root: str, fingerprint: str | None = None) -> None:
    """Print a line per level, or everything about one.

    Raises:
        ValueError: no level has the fingerprint, or several begin with it.
    """
    levels = stored_levels(Path(root))
    if fingerprint is None:
        _print_table(levels)
        return
    found = [level for level in levels if level.home.name.startswith(fingerprint)]
    if len(found) != 1:
        raise ValueError(
            f"{len(found)} levels of {Path(root) / LEVELS} begin with {fingerprint!r}; expected one of "
            f"{', '.join(level.home.name for level in found or levels)}"
        )
    (level,) = found
    print(f"{level.home} ({level.size / 1e6:.1f} MB), {level.state()}")
    print(f"used by: {', '.join(level.users) or 'no run'}")
    by_name = {each.home.name: each for each in levels}
    below, lineage = level.description.get("below"), []
    while below in by_name:
        lineage.append(f"level {by_name[below].description.get('level')} {below}")
        below = by_name[below].description.get("below")
    print(f"made from: {', '.join([*lineage, f'dataset {below}'])}")
    print(yaml.safe_dump(level.description, sort_keys=False), end="")
    if (level.home / METRICS).exists():
        print(yaml.safe_dump({"last validation": dict(load_metrics(level.home))}, sort_keys=False), end="")


def _print_table(levels: Sequence[StoredLevel]) -> None:
    rows = [("fingerprint", "level", "stride", "made from", "size", "last validation", "used by")]
    for level in levels:
        number, stride, below = (str(level.description.get(key, "")) for key in ("level", "stride", "below"))
        more = len(level.users) - MOST_USERS
        users = ", ".join(level.users[:MOST_USERS]) + (f" and {more} more" if more > 0 else "")
        rows.append((level.home.name, number, stride, below, f"{level.size / 1e6:.1f} MB", level.state(), users or "-"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def prune(root: str, really: bool) -> None:
    """Remove the finished levels that no run has; without `really`, only say which."""
    levels = stored_levels(Path(root))
    pretrained = any(level.users and level.description.get("config", {}).get("pretraining") for level in levels)
    unused = [
        level for level in levels
        if not level.users and level.finished and not is_locked(level.home) and (level.description or not pretrained)
    ]  # fmt: skip
    for level in unused:
        say(f"{level.home}: {level.size / 1e6:.1f} MB, no run has it")
        if really:
            with locked(level.home):
                shutil.rmtree(level.home)
    total = sum(level.size for level in unused) / 1e6 if not really else 0
    left = sum(not level.users and not level.finished for level in levels)
    done = "removed" if really else f"would be removed ({total:.1f} MB); add --yes to remove them"
    kept = f". {left} interrupted ones are kept; the commands that train them continue" if left else ""
    say(f"{len(unused)} of {len(levels)} levels {done}{kept}")
