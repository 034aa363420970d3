"""The command collect."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from hiwm.build import build_as
from hiwm.config import Config, ConfigError
from hiwm.console import Bar, say
from hiwm.data.collect import Collection, end_repeated_script
from hiwm.data.collect import collect as collect_episodes
from hiwm.data.policies import Policy
from hiwm.data.store import Trajectories, Writer, open_dataset
from hiwm.disk import naming_file
from hiwm.environment import check_collecting, check_evaluating, environment_of
from hiwm.experiment.session import one_process
from hiwm.locks import locked
from hiwm.training.specs import check_parts
from hiwm.training.windows import check_longest
from hiwm.validate import check, check_columns


def collect(config: Config) -> Trajectories:
    """Collect the dataset of the config, continue an interrupted collection, or open the finished dataset."""
    one_process("collect")
    end_repeated_script()
    path = Path(config.dataset.path)
    with nullcontext() if path.exists() else locked(path), naming_file(path):  # other experiments share it
        return _collect(config, path)


def _collect(config: Config, path: Path) -> Trajectories:
    wanted = describe_collection(config)
    if path.exists():
        dataset = open_dataset(path)
        made = dataset.metadata.get("collection")
        if made not in (None, wanted):
            raise ConfigError(
                f"dataset.path is {path}, which was collected with {made}; expected {wanted}. Give another dataset.path or remove "
                "the file"
            )
        say(f"dataset {path}: {len(dataset.ep_len):,} episodes, {dataset.num_steps:,} steps, reused")
        return dataset
    if path.suffix == ".npz":
        raise ConfigError(
            f"dataset.path is {path}, which does not exist; expected a path that ends in .h5, because `hiwm collect` writes no .npz"
        )
    check(config)
    shapes = check_collecting(config)
    check_columns(config, list(shapes), config.environment["_target_"])
    check_parts(config.hierarchy, config.training, shapes)
    check_evaluating(config)
    check_longest(config.hierarchy, config.dataset.steps, "the episodes to collect")
    make_policy = partial(build_as, Policy, "dataset.policy", config.dataset.policy, config.allow)
    make_policy()  # refuses a mistake before any work
    path.parent.mkdir(parents=True, exist_ok=True)
    collection = Collection(
        make_env=environment_of(config, config.dataset.environment),
        make_policy=make_policy,
        episodes=config.dataset.episodes,
        steps=config.dataset.steps,
        seed=config.dataset.seed,
        column=config.dataset.column,
    )
    metadata = {"environment": config.environment, "collection": wanted}
    with Writer(path, metadata, resume=True) as writer:
        there = len(writer.ep_len)
        if there:
            say(f"dataset {path}: {there:,} of {collection.episodes:,} episodes exist, continuing")
        with Bar("collect", collection.episodes, "episodes") as bar:
            for done, episode in enumerate(collect_episodes(collection, config.dataset.workers, there), there + 1):
                writer.append(episode)
                bar.update(done)
    dataset = open_dataset(path)
    say(
        f"dataset {path}: {len(dataset.ep_len):,} episodes, {dataset.num_steps:,} steps, fingerprint {dataset.fingerprint}"
    )
    return dataset


def describe_collection(config: Config) -> dict[str, Any]:
    """The settings that a collection depends on; they are saved in the dataset."""
    dataset = config.dataset
    return {
        "environment": {**config.environment, **dataset.environment},
        "policy": dataset.policy,
        "episodes": dataset.episodes,
        "steps": dataset.steps,
        "seed": dataset.seed,
    }
