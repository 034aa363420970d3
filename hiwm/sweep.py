"""`hiwm <command> --multirun key=a,b`: the command once for each combination, by Hydra's sweepers and launchers."""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from unittest.mock import patch

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from hiwm.cli import main
from hiwm.config import ConfigError, load_config
from hiwm.console import say, shout
from hiwm.evaluation.config import HIERARCHICAL
from hiwm.files import read_json, write_json
from hiwm.training.fingerprint import fingerprint

STATUS = "status.json"  # of a run, in a folder with the number of its job
MEASURING = ("evaluate", "run")
SIGNAL = 128  # the exit status after signal n is 128 + n
LONGEST = 100  # characters of the name of a run
UNUSUAL = r"[^\w.,+=@-]+"  # characters that the name of a run does not have
MOST_CHECKED = 64  # combinations that are composed before the first one runs
#: Hydra's own folder holds only what a launcher or a sweeper writes; results lie in `Config.folder`
QUIET = ["hydra.output_subdir=null", "hydra/job_logging=none", "hydra/hydra_logging=none", "hydra.job.chdir=false"]


def sweep(command: str, overrides: Sequence[str]) -> int:
    """Run a command for every combination of swept values, each in a folder of its own, `Config.run`.

    A run that fails does not end the sweep.

    Args:
        command: the verb.
        overrides: those of the command line, with Hydra's sweeps (`key=a,b`, `key=range(3)`, ...) and keys `hydra.*`.

    Returns:
        The exit status: that of the first run that failed, else 0.

    Raises:
        ConfigError: one of the first combinations cannot be composed; nothing has run then.
    """
    configs = [load_config(each) for each in itertools.islice(combinations(overrides), MOST_CHECKED)]
    folder = Path(configs[0].root).resolve() / "multirun" / datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    parsed = _parsed(overrides)
    swept = {each.get_key_element().lstrip("+") for each in parsed if each.is_sweep_override()}
    fixed = {each.get_key_element().lstrip("+") for each in parsed} - swept

    def job(_: Any) -> float | None:
        hydra_config = HydraConfig.get()
        task = list(hydra_config.overrides.task)
        given = {key.lstrip("+"): value for key, _, value in (each.partition("=") for each in task)}
        values = {key: value for key, value in given.items() if key not in fixed}
        own = given.get("run") if "run" in fixed else None
        name = run_name(values) if own in (None, "null") else f"{own},{run_name(values)}"
        say(f"run {hydra_config.job.num + 1}: {name}")
        # a sweep over seeds alone makes the same runs as single commands
        is_single = not values or (set(values) == {"seed"} and own in (None, "null"))
        arguments = task if is_single else [*task, f"run='{name}'"]
        status = main([command, *arguments])
        home = folder / str(hydra_config.job.num)
        home.mkdir(parents=True, exist_ok=True)  # hydra.sweep.dir may send Hydra's own files elsewhere
        write_json(home / STATUS, {"run": name, "status": status})
        if status > SIGNAL:  # ends the sweep
            raise KeyboardInterrupt
        if status or command not in MEASURING:
            return None
        config = load_config(arguments)
        results = read_json(config.folder / f"{config.evaluation.name}.json")
        return results["agents"][HIERARCHICAL]["success"]  # what a sweeper such as Optuna's maximises

    where = [f"hydra.sweep.dir='{folder}'", "hydra.sweep.subdir=${hydra.job.num}"]
    _hydra(job, ["--multirun", *QUIET, *where, *overrides])
    runs = [read_json(path) for path in sorted(folder.glob(f"*/{STATUS}"), key=lambda path: int(path.parent.name))]
    failed = [run for run in runs if run["status"]]
    if failed:
        shout(f"{len(failed)} of {len(runs)} runs failed: {', '.join(run['run'] for run in failed)}")
    return failed[0]["status"] if failed else 0


def run_name(values: Mapping[str, str]) -> str:
    """The folder of a run with these values: `levels.level1.stride=4,seed1`.

    A fingerprint keeps values apart that differ in characters which a folder may not have.
    """
    parts = sorted(f"{key}={value}" for key, value in values.items() if key != "seed")
    if re.search(UNUSUAL, ",".join(parts)):
        parts[-1] += f"-{fingerprint(parts)}"  # before the seed, which ends the name
    parts += [f"seed{values['seed']}"] if "seed" in values else []
    return folder_name(",".join(parts))


def folder_name(name: str) -> str:
    """A name without unusual characters, and cut if it is long; names that differ in those characters give the same."""
    name = re.sub(UNUSUAL, "_", name)
    return name if len(name) <= LONGEST else f"{name[:LONGEST]}-{fingerprint([name])}"


def combinations(overrides: Sequence[str]) -> Iterator[list[str]]:
    """The overrides of every job, as Hydra's basic sweeper combines them, without keys of Hydra itself."""
    choices = [
        [f"{each.get_key_element()}={value}" for value in each.sweep_string_iterator()]
        if each.is_sweep_override()
        else [each.input_line or ""]
        for each in _parsed(overrides)
        if not each.key_or_group.startswith("hydra")
    ]
    return (list(combination) for combination in itertools.product(*choices))


def _parsed(overrides: Sequence[str]) -> list[Override]:
    try:
        return OverridesParser.create().parse_overrides(list(overrides))
    except HydraException as error:
        load_config(overrides)  # explains it
        raise ConfigError(str(error)) from error


def complete(arguments: Sequence[str]) -> None:
    """Answer the shell that asks for completions (`-sc query=bash`), or print the script that asks."""
    _hydra(lambda _: None, list(arguments))


def _hydra(job: Callable[[Any], float | None], arguments: list[str]) -> None:
    """Call Hydra as if it were the command."""
    command: Any = hydra.main(version_base="1.3", config_path="pkg://hiwm.configs", config_name="config")
    with patch.object(sys, "argv", [sys.argv[0], *arguments]):
        command(job)()
