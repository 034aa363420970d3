"""The command train."""

from __future__ import annotations

from collections.abc import Sequence

import yaml

from hiwm.agent import Agent, AgentSpec
from hiwm.config import Config
from hiwm.console import say
from hiwm.data.store import Trajectories, open_dataset
from hiwm.environment import captions_of, check_before_training
from hiwm.experiment.session import start
from hiwm.fit_heads import fit_heads
from hiwm.planning.graph.landmarks import LandmarkGraph, build_graph
from hiwm.progress import TrainingProgress
from hiwm.tracking import make_tracker
from hiwm.training.diagnostics.runner import Diagnostics
from hiwm.training.distributed import barrier
from hiwm.training.stages import Report, train_hierarchy
from hiwm.validate import actions_of, check, check_columns, check_environment, check_untrained, is_one_hot


def train(config: Config) -> None:
    """Train the levels that do not exist yet, build the graphs, fit the heads, save the hierarchy."""
    processes = start(config)
    check(config)
    dataset = open_dataset(config.dataset.path)
    check_environment(config, dataset.metadata.get("environment"), config.dataset.path)
    check_columns(config, list(dataset.columns), dataset.path)
    actions = actions_of(dataset)
    if config.environment.get("_target_"):
        check_before_training(config, dataset)
    check_untrained(config, dataset, actions)
    captions = captions_of(config, dataset)
    tracker = make_tracker(config if processes.is_main else config.changed({"tracking": "none"}))
    parameters = [
        {
            "level": k,
            **parts,
            "training": config.training.of_level(parts["training"]).as_dict(),
            "seed": config.seed,
        }
        for k, parts in enumerate(config.hierarchy.levels)
    ]
    title = f"{len(parameters)} levels jointly" if config.training.joint else ""
    diagnostics = Diagnostics.from_config(config.diagnostics, config.allow)
    with TrainingProgress(tracker, parameters, dataset.fingerprint, diagnostics, title) as progress:
        hierarchy, caches = train_hierarchy(
            config.hierarchy,
            config.training,
            dataset,
            seed=config.seed,
            folder=config.folder / "levels",
            processes=processes,
            report=Report(progress.start, progress.step, progress.level) if processes.is_main else Report(),
            diagnostics=diagnostics,
        )
    if not processes.is_main:
        barrier()
        return
    latents = [open_dataset(cache) for cache in caches]
    graphs = _build_graphs(config, dataset, latents)
    heads = fit_heads(config, dataset, hierarchy, latents, processes.device, captions)
    low, high, discrete = actions.min(0).tolist(), actions.max(0).tolist(), is_one_hot(actions)
    shapes = [dataset.column(name).shape[1:] for name in config.goal.columns]
    spec = AgentSpec(config.environment, low, high, config.goal.columns, shapes, discrete)
    agent = Agent(hierarchy, heads, graphs, config.planner, spec, seed=config.seed, allow=config.allow)
    home = config.folder / "hierarchy"
    agent.save(home)
    (config.folder / "config.yaml").write_text(yaml.safe_dump(config.as_dict(), sort_keys=False))
    parent = tracker.parent()
    parent.artifact(home)
    parent.artifact(config.folder / "config.yaml")
    parent.finish()
    say(f"hierarchy of {len(hierarchy)} levels, periods {list(hierarchy.periods)} steps, saved: {home}")
    barrier()


def _build_graphs(config: Config, dataset: Trajectories, latents: Sequence[Trajectories]) -> list[LandmarkGraph]:
    """A landmark graph over the latents of every level."""
    graphs = [build_graph(level, dataset.column("action"), config.graph, config.seed) for level in latents]
    for k, graph in enumerate(graphs):
        say(f"graph of level {k}: {graph.data.num_nodes:,} landmarks, {graph.data.num_edges:,} edges")
    return graphs
