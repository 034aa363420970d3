"""The command train."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hiwm.agent import CONFIG, Agent, AgentSpec
from hiwm.config import Config
from hiwm.console import say
from hiwm.data.actions import ActionRange, action_range
from hiwm.data.store import Trajectories, open_dataset
from hiwm.environment import captions_of, check_before_training, environment_of
from hiwm.experiment.levels import note_levels, note_levels_to_train
from hiwm.experiment.session import commit, exclusive, start
from hiwm.files import write_yaml
from hiwm.fit_heads import fit_heads
from hiwm.hierarchy import Hierarchy
from hiwm.planning.graph.landmarks import LandmarkGraph, build_graph
from hiwm.progress import TrainingProgress
from hiwm.tracking import Tracker, make_tracker
from hiwm.training.diagnostics.runner import Diagnostics
from hiwm.training.distributed import Processes, barrier
from hiwm.training.specs import level_fingerprints
from hiwm.training.stages import Report, train_hierarchy
from hiwm.validate import check, check_columns, check_environment, check_untrained


@exclusive
def train(config: Config) -> None:
    """Train the levels that do not exist yet, build the graphs, fit the heads, save the hierarchy."""
    processes = start(config)
    check(config)
    if config.environment.get("_target_") and not Path(config.dataset.path).exists():
        environment_of(config, config.dataset.environment)  # names its mistake, which comes before the missing dataset
    dataset = open_dataset(config.dataset.path)
    check_environment(config, dataset.metadata.get("environment"), config.dataset.path)
    check_columns(config, [*dataset.columns, *dataset.unusable], dataset.path)
    dataset = dataset.checked({*config.inputs, *config.state, *config.goal.columns, "action"})
    if config.environment.get("_target_"):
        dataset = check_before_training(config, dataset)
    actions = action_range(dataset)
    check_untrained(config, dataset, actions)
    captions = captions_of(config, dataset)
    if processes.is_main:
        config.folder.mkdir(parents=True, exist_ok=True)
        note_levels_to_train(
            config.folder, level_fingerprints(config.hierarchy, config.training, dataset.fingerprint, config.seed)
        )
    with make_tracker(config if processes.is_main else config.changed({"tracking": "none"}), commit()) as tracker:
        tracker.parent().dataset(dataset.path.stem, dataset.fingerprint, str(dataset.path.resolve()), dataset.num_steps)
        hierarchy, latents = _train_levels(config, dataset, processes, tracker)
        if processes.is_main:
            graphs = _build_graphs(config, dataset, latents)
            heads = fit_heads(config, dataset, hierarchy, latents, processes.device, captions)
            spec = _agent_spec(config, dataset, actions)
            home = config.folder / "hierarchy"
            agent = Agent(hierarchy, heads, graphs, config.planner, spec, seed=config.seed, allow=config.allow)
            agent.save(home, config.as_dict())
            write_yaml(config.folder / CONFIG, config.as_dict())
            fingerprints = [spec.fingerprint for spec in hierarchy.specs]
            note_levels(config.folder, fingerprints)
            levels = {"hiwm.levels": " ".join(fingerprints)}
            tracker.parent().model(home, config.name, {**levels, "hiwm.run": config.folder.name})
            tracker.parent().artifact(config.folder / CONFIG)
            tracker.parent().finish()
            say(f"hierarchy of {len(hierarchy)} levels, periods {list(hierarchy.periods)} steps, saved: {home}")
    barrier()


def _train_levels(
    config: Config, dataset: Trajectories, processes: Processes, tracker: Tracker
) -> tuple[Hierarchy, list[Trajectories]]:
    """The trained levels, and the latents of each; the main process reports."""
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
            folder=config.levels_folder,
            processes=processes,
            report=Report(progress.start, progress.fit, progress.step, progress.level)
            if processes.is_main
            else Report(),
            diagnostics=diagnostics,
        )
    return hierarchy, [open_dataset(cache) for cache in caches]


def _agent_spec(config: Config, dataset: Trajectories, actions: ActionRange) -> AgentSpec:
    shapes = [dataset.column(name).shape[1:] for name in config.goal.columns]
    return AgentSpec(
        config.environment, actions.low.tolist(), actions.high.tolist(), dataset.fingerprint, config.goal.columns, shapes,
        actions.discrete,
    )  # fmt: skip


def _build_graphs(config: Config, dataset: Trajectories, latents: Sequence[Trajectories]) -> list[LandmarkGraph]:
    """A landmark graph over the latents of every level."""
    graphs = [build_graph(level, dataset.column("action"), config.graph, config.seed) for level in latents]
    for k, graph in enumerate(graphs):
        say(f"graph of level {k}: {graph.data.num_nodes:,} landmarks, {graph.data.num_edges:,} edges")
    return graphs
