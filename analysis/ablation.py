"""The command `hiwm ablate`: trains and evaluates every variant of an ablation, and compares them in a table and a figure."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import Field, field_validator

from hiwm.analysis.ablation_figure import draw
from hiwm.analysis.tables import markdown
from hiwm.build import given_keys
from hiwm.config import Config, ConfigError, load_config
from hiwm.console import say
from hiwm.data.store import open_dataset
from hiwm.evaluation.config import HIERARCHICAL, EvaluationConfig
from hiwm.evaluation.results import read_results
from hiwm.evaluation.statistics import bootstrap_interval, outcomes_of
from hiwm.experiment import collect, evaluate, train
from hiwm.experiment.evaluation import identity_of_levels
from hiwm.experiment.session import commit
from hiwm.files import read_yaml
from hiwm.settings import Settings
from hiwm.sweep import folder_name
from hiwm.tracking import make_tracker
from hiwm.training.checkpoint import METRICS
from hiwm.training.specs import level_fingerprints, training_of
from hiwm.validate import check

EPISODES = "evaluation.episodes"
NOTE = (
    "Success in %, differences in percentage points, on the same episodes as the first variant. Brackets: 95 % intervals of a bootstrap over "
    "seeds and episodes. Steps: mean over the successful episodes, so a variant that solves more distant tasks may need more."
)


class Ablation(Settings):
    """Variants to compare, one of `configs/ablation/` or a file of your own.

    Args:
        base: overrides of all variants.
        seeds: seeds of training; the starts and goals of the evaluation are the same for all.
        episodes: episodes per task of every variant and seed.
        factors: name -> its values -> the overrides of each. The variants are all combinations; the first one is the reference.
    """

    base: list[str]
    seeds: list[int] = Field(min_length=1)
    episodes: int = Field(ge=1)
    factors: dict[str, dict[str, list[str]]] = Field(min_length=1)

    @field_validator("seeds")
    @classmethod
    def _check_seeds(cls, seeds: list[int]) -> list[int]:
        if len({*seeds}) < len(seeds):
            raise ValueError(
                f"seeds is {seeds}; expected different seeds, because the episodes of one would count twice"
            )
        return seeds

    @field_validator("factors", mode="before")
    @classmethod
    def _check_factors(cls, factors: Any) -> Any:
        for name, values in factors.items() if isinstance(factors, Mapping) else ():
            if not isinstance(values, Mapping) or not values:
                raise ValueError(f"factors.{name} is {values!r}; expected a mapping: value -> list of overrides")
        return factors


@dataclass(frozen=True)
class Cell:
    """One variant with one seed.

    Args:
        variant: the values of all factors, in words.
        config: the experiment.
    """

    variant: str
    config: Config


def ablate(arguments: Sequence[str]) -> None:
    """Run an ablation, or continue it, and write its table and figure into `<root>/ablations/<name>/`.

    Args:
        arguments: `ablation=<name or file.yaml>`, overrides of all variants, and `--dry-run` to only say what will be trained.

    Raises:
        ConfigError: there is no such ablation, or a variant has a mistake; nothing has run then.
    """
    given = [argument for argument in arguments if argument.startswith("ablation=")]
    if len(given) != 1:
        raise ConfigError(f"{len(given)} ablations are given; expected ablation=<name>, one of {', '.join(shipped())}")
    name, ablation = find(given[0].removeprefix("ablation="))
    rest = [argument for argument in arguments if argument not in (*given, "--dry-run")]
    cells = make_cells(name, ablation, rest)
    say(plan_of(cells))
    if "--dry-run" in arguments:
        return
    for number, cell in enumerate(cells, 1):
        say(f"\n{number}/{len(cells)}: {cell.variant}, seed {cell.config.seed}")
        for verb in (collect, train, evaluate):
            verb(cell.config)
    folder = Path(cells[0].config.root) / "ablations" / name
    folder.mkdir(parents=True, exist_ok=True)
    variants = agents_of(cells)
    results = pd.DataFrame(compare(variants))
    results.to_csv(folder / "table.csv", index=False)
    table = f"{markdown(in_words(results, ablation))}\n\n{NOTE}"
    (folder / "table.md").write_text(table + "\n")
    by_seed = {variant: (100 * outcomes_of(agents).mean((1, 2))).tolist() for variant, agents in variants.items()}
    draw(results, _labels(ablation), by_seed, name).savefig(folder / "figure.png", dpi=150)
    _track(cells, ablation, results, folder)
    print(f"\n{table}\n")
    say(f"table and figure: {folder}")


@dataclass(frozen=True)
class _Tracked:
    """An ablation as a tracker knows it: a run of the experiment of its variants."""

    name: str
    root: str
    tracking: str
    folder: Path
    ablation: Ablation

    def as_dict(self) -> dict[str, Any]:
        return self.ablation.as_dict()


def _track(cells: Sequence[Cell], ablation: Ablation, results: pd.DataFrame, folder: Path) -> None:
    """Record the table and the figure in a run, with the runs of all variants below it."""
    first = cells[0].config
    with make_tracker(_Tracked(first.name, first.root, first.tracking, folder, ablation), commit()) as tracker:
        run = tracker.parent()
        for row in results.to_dict("records"):
            run.metrics({f"{key}/{row['variant']}": row[key] for key in ("success", "low", "high", "difference")})
        for name in ("table.csv", "table.md", "figure.png"):
            run.artifact(folder / name)
        for cell in cells:
            run.adopt(cell.config.folder)
        run.finish()


def shipped() -> list[str]:
    """Names of the shipped ablations."""
    folder = files("hiwm.configs").joinpath("ablation")
    return sorted(file.name.removesuffix(".yaml") for file in folder.iterdir() if file.name.endswith(".yaml"))


def find(given: str) -> tuple[str, Ablation]:
    """Name and content of a shipped ablation or of a file.

    Raises:
        ConfigError: there is none, or a key of it is wrong.
    """
    path = Path(given) if given.endswith(".yaml") else Path(str(files("hiwm.configs") / "ablation" / f"{given}.yaml"))
    if not path.exists():
        fault = "; there is no such file. Expected" if given.endswith(".yaml") else "; expected"
        raise ConfigError(f"ablation is {given!r}{fault} one of {', '.join(shipped())}, or a file that ends in .yaml")
    try:
        return path.stem, Ablation(**read_yaml(path))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{path}: {error}") from error


def make_cells(name: str, ablation: Ablation, overrides: Sequence[str]) -> list[Cell]:
    """Every variant with every seed, checked; the seeds of a variant follow each other."""
    cells = []
    _check_own([each for each in overrides if EPISODES not in given_keys([each])])
    for variant, own in _variants(name, ablation):
        for seed in ablation.seeds:
            run = folder_name(f"{name}={variant},seed{seed}")
            try:
                config = load_config([*ablation.base, *own, *overrides, f"seed={seed}", f"run='{run}'"])
                _check_own([*ablation.base, *own])
                config = _without_baselines(config, ablation.episodes, overrides)
                check(config)
            except ConfigError as error:
                raise ConfigError(f"{variant}: {error}") from error
            cells.append(Cell(variant, config))
    _check_pairs(cells)
    return cells


def _variants(name: str, ablation: Ablation) -> list[tuple[str, list[str]]]:
    """Name and overrides of every variant; each name has a folder of its own, or the results of one would pass for another's."""
    found, taken = [], {}
    for values in itertools.product(*(each.items() for each in ablation.factors.values())):
        variant = ", ".join(value for value, _ in values)
        folder = folder_name(f"{name}={variant}")
        if folder in taken:
            raise ConfigError(
                f"factors give the variants {taken[folder]!r} and {variant!r} the same folder, {folder}; expected values with "
                "other names"
            )
        taken[folder] = variant
        found.append((variant, [override for _, changes in values for override in changes]))
    return found


def _check_own(overrides: Sequence[str]) -> None:
    """Refuse overrides of the ablation itself that its own keys would replace."""
    given = set(given_keys(overrides))
    for key, own in {EPISODES: "episodes", "seed": "seeds"}.items():
        if key in given:
            raise ConfigError(f"{key} is among the overrides; expected the key {own} of the ablation instead")
    if "run" in given:
        raise ConfigError("run is among the overrides; expected none, because each variant has a folder of its own")


def _check_pairs(cells: Sequence[Cell]) -> None:
    """Refuse variants whose episodes do not have the same starts and goals."""
    tasks = [(cell.config.environment, cell.config.evaluation.as_dict()) for cell in cells]
    for cell, task in zip(cells, tasks, strict=True):
        if task != tasks[0]:
            raise ConfigError(
                f"{cell.variant}: the environment or the evaluation differs from that of {cells[0].variant}; expected the same for all variants, "
                "because their episodes are paired. Put such overrides into `base`"
            )


def _without_baselines(config: Config, episodes: int, overrides: Sequence[str]) -> Config:
    """The config with the evaluation of an ablation: the variants are each other's baselines."""
    evaluation: dict[str, Any] = {**config.evaluation.as_dict(), "baselines": {}}
    if EPISODES not in set(given_keys(overrides)):
        evaluation["episodes"] = episodes
    return Config(**{**config.as_dict(), "evaluation": EvaluationConfig(**evaluation).as_dict()})


def plan_of(cells: Sequence[Cell]) -> str:
    """What will be trained, reused and evaluated, in words."""
    levels: dict[Path, int] = {}  # folder -> optimiser steps
    datasets: dict[str, str] = {}
    asked = done = 0
    for cell in cells:
        config, path = cell.config, cell.config.dataset.path
        if path not in datasets:
            datasets[path] = open_dataset(path).fingerprint if Path(path).exists() else path
        found = level_fingerprints(config.hierarchy, config.training, datasets[path], config.seed)
        for k, name in enumerate(found):
            levels[config.levels_folder / name] = training_of(k, config.training, config.hierarchy.levels[k]).steps
        asked += len(found)
        results = config.folder / f"{config.evaluation.name}.json"
        done += results.exists() and read_results(results)["identity"] == identity_of_levels(config, found)
    new = [steps for level, steps in levels.items() if not (level / METRICS).exists()]
    evaluation = cells[0].config.evaluation
    return (
        f"{len(cells)} variants and seeds. {asked} levels: {len(new)} to train ({sum(new):,} optimiser steps), {len(levels) - len(new)} trained "
        f"before, {asked - len(levels)} shared. {len(cells) - done} evaluations of {evaluation.num_tasks} tasks with "
        f"{evaluation.episodes} episodes each, {done} done before"
    )


def agents_of(cells: Sequence[Cell]) -> dict[str, list[dict[str, Any]]]:
    """Variant -> the numbers of its hierarchy with each seed, and the code and the machine that they come from."""
    variants: dict[str, list[dict[str, Any]]] = {}
    for cell in cells:
        results = read_results(cell.config.folder / f"{cell.config.evaluation.name}.json")
        agent = {**results["agents"][HIERARCHICAL], "commit": results["commit"], "machine": results["machine"]}
        variants.setdefault(cell.variant, []).append(agent)
    return variants


def _labels(ablation: Ablation) -> list[str]:
    """The variants with the names of their factors, one line for each factor."""
    factors = ([f"{factor}: {value}" for value in values] for factor, values in ablation.factors.items())
    return ["\n".join(each) for each in itertools.product(*factors)]


def compare(variants: Mapping[str, Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    """A row per variant: success and its difference to the first variant, in percent, with 95 % intervals.

    Intervals are of a stratified bootstrap: seeds are resampled, and episodes within each seed and task. The episodes of two
    variants are paired, because they have the same starts and goals.
    """
    outcomes = {name: outcomes_of(agents) for name, agents in variants.items()}
    reference, rows = next(iter(outcomes.values())), []
    for name, agents in variants.items():
        low, high = bootstrap_interval(outcomes[name], lowest=0.0)
        # the reference differs from itself by 0, without uncertainty
        less, more = (0.0, 0.0) if outcomes[name] is reference else bootstrap_interval(outcomes[name] - reference)
        steps = [agent["steps"]["mean"] for agent in agents if agent["steps"]]
        rows.append({
            "variant": name,
            "success": 100 * outcomes[name].mean(),
            "low": 100 * low,
            "high": 100 * high,
            "difference": 100 * (outcomes[name] - reference).mean(),
            "difference_low": 100 * less,
            "difference_high": 100 * more,
            "seeds": len(agents),
            "episodes": sum(agent["episodes"] for agent in agents),
            "solved": " ".join(f"{seed.sum():.0f}" for seed in outcomes[name]),  # of each seed
            "steps": float(np.mean(steps)) if steps else None,
            "predictor_calls": float(np.mean([agent["predictor_calls"] for agent in agents])),
            "other_calls": float(np.mean([agent["other_calls"] for agent in agents])),
            "plan_ms": float(np.mean([agent["plan_ms"]["mean"] for agent in agents])),
            **{key: "; ".join(dict.fromkeys(agent[key] for agent in agents)) for key in ("commit", "machine")},
        })  # fmt: skip
    return rows


def in_words(results: pd.DataFrame, ablation: Ablation) -> pd.DataFrame:
    """The table for people, in percent."""

    def cell(row: pd.Series, key: str) -> str:
        low, high = ("low", "high") if key == "success" else (f"{key}_low", f"{key}_high")
        sign = "" if key == "success" else "+"
        return f"{row[key]:{sign}.0f} [{row[low]:{sign}.0f}, {row[high]:{sign}.0f}]"

    return pd.DataFrame({
        f"variant ({', '.join(ablation.factors)})": results["variant"],
        "success (%)": [cell(row, "success") for _, row in results.iterrows()],
        "difference to the first (points)": ["0 (the first)", *(cell(row, "difference") for _, row in results.iloc[1:].iterrows())],
        "steps of successes": [f"{steps:.0f}" if pd.notna(steps) else "-" for steps in results["steps"]],
        "predictor calls": results["predictor_calls"].map("{:.0f}".format),
        "other forward passes": results["other_calls"].map("{:.0f}".format),
        "seeds x episodes": [f"{n} x {total // n}" for n, total in zip(results["seeds"], results["episodes"], strict=True)],
    })  # fmt: skip
