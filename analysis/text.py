"""Are goals in words understood? `python -m hiwm.analysis.text <overrides>` writes text.csv, with the command line of `hiwm train`.

An episode starts where the evaluation's do and is given a caption that is not true there; it succeeds if the caption is
true in the end. The control is given the caption of another episode, and judged by its own.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hiwm.agent import Agent, Observation, load_agent
from hiwm.build import build
from hiwm.config import Config, load_config
from hiwm.data.store import Trajectories, open_dataset
from hiwm.data.vector import make_vector
from hiwm.envs.captions import Caption
from hiwm.evaluation.episodes import episode_seed
from hiwm.evaluation.statistics import wilson_interval
from hiwm.heads.text import embed

EPISODES = 100  # of each way to give the goal
TOP = 20  # latents that fit a caption best
ROWS = 20_000  # of held-out episodes, at most
# One more wording of every caption, by hand: nothing of them was ever trained on. In the order of the captions.
PARAPHRASES = {
    "hiwm.envs.rooms.env.FourRoom": (
        "walk to the room in the upper left", "the centre of the north west room",
        "the upper left room, beside the exit to the right", "the north west room, by the exit to the south",
        "somewhere in the room at the top on the right-hand side", "the centre of the north east room",
        "the upper right room, beside the exit to the left", "the north east room, by the exit to the south",
        "take the agent to the lower left", "the centre of the south west room",
        "the lower left room, beside the exit to the right", "the south west room, by the exit to the north",
        "down on the right, please", "the centre of the south east room",
        "the lower right room, beside the exit to the left", "the south east room, by the exit to the north",
    ),
    "hiwm.envs.manipulation.Manipulation": (
        "hold the block up", "the block belongs near you, on your right", "place the block close to you, straight ahead",
        "the block belongs near you, on your left", "slide the block to your right", "the block goes to the middle",
        "slide the block to your left", "the block belongs far away, on your right",
        "push the block far away, straight ahead", "the block belongs far away, on your left",
    ),
}  # fmt: skip


def measure(config: Config) -> list[dict[str, Any]]:
    """One row for each way to word the goals, and one for the control."""
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    agent = load_agent(config.folder / "hierarchy", allow=config.allow)
    agent = agent.with_planner(**vars(config.planner))
    target = config.environment["_target_"]
    make_env = partial(build, config.environment, config.allow)
    dataset = open_dataset(config.dataset.path)
    describe = make_env().captions
    first = describe(dataset.columns)
    held_out = [caption.wordings[-1] for caption in first]
    rows = []
    for name, worded in {"held out": held_out, "control": held_out, "by hand": PARAPHRASES[target]}.items():
        ended, ever = run(agent, make_env, describe, config, worded, control=name == "control")
        low, high = wilson_interval(int(ended.sum()), len(ended))
        row = {
            "experiment": config.name, "seed": config.seed, "wording": name, "captions": len(worded),
            "episodes": len(ended), "won": int(ended.sum()), "low": round(low, 4), "high": round(high, 4),
            "ever": int(ever.sum()), "steps": config.evaluation.max_steps,
        }  # fmt: skip
        rows.append(row | retrieval(agent, dataset, first, worded, config.dataset.validation))
        print(rows[-1], flush=True)
    return rows


def run(
    agent: Agent,
    make_env: Callable[[], Any],
    describe: Callable[[Observation], list[Caption]],
    config: Config,
    worded: Sequence[str],
    control: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Whether the captions of EPISODES episodes were true in the end, and at any time, (EPISODES,) each."""
    protocol = config.evaluation
    per_task = EPISODES // protocol.num_tasks
    envs: Any = make_vector(make_env, per_task)
    rng = np.random.default_rng(protocol.seed)
    ended, ever = [], []
    for task in range(1, protocol.num_tasks + 1):
        seeds = [episode_seed(protocol.seed, task, e) for e in range(per_task)]
        observations, _ = envs.reset(seed=seeds, options={"task_id": task, "episode": list(range(per_task))})
        true = _true(describe(observations))  # (C, N)
        wanted = np.array([rng.choice(np.flatnonzero(~true[:, i])) for i in range(per_task)])
        given = rng.permutation(wanted) if control else wanted
        agent.reset([worded[int(c)] for c in given])
        reached = np.zeros(per_task, bool)
        for _ in range(protocol.max_steps):
            observations, *_ = envs.step(agent.act(observations))
            true = _true(describe(observations))[wanted, np.arange(per_task)]
            reached |= true
        ended.append(true)
        ever.append(reached)
    envs.close()
    return np.concatenate(ended), np.concatenate(ever)


def retrieval(
    agent: Agent, dataset: Trajectories, captions: Sequence[Caption], worded: Sequence[str], validation: float
) -> dict[str, float]:
    """Retrieval at the top level on held-out episodes.

    Returns:
        precision: share of each caption's TOP best latents that it is true of; precision_by_chance: share it is true of.
        accuracy: share of the latents whose best caption is true of them, where any is.
    """
    _, held_out = dataset.split(validation)
    rows = np.sort(np.random.default_rng(0).choice(held_out.rows, min(ROWS, held_out.num_steps), replace=False))
    latent = agent.hierarchy.encode_many({name: dataset.column(name)[rows] for name in agent.inputs})[-1]
    true = torch.from_numpy(_true(captions)[:, rows])
    logits = agent.texts[len(agent.hierarchy) - 1].every_pair(embed(worded), latent)
    best = true.gather(1, logits.topk(TOP).indices).float().mean()
    right = true.gather(0, logits.argmax(0, keepdim=True))[0, true.any(0)].float().mean()
    numbers = {"precision": best, "precision_by_chance": true.float().mean(), "accuracy": right}
    return {name: round(value.item(), 3) for name, value in numbers.items()}


def _true(captions: Sequence[Caption]) -> np.ndarray:
    """Which captions are true of N observations, (C, N)."""
    return np.stack([caption.true for caption in captions])


def main(overrides: Sequence[str]) -> None:
    """Write text.csv into the current folder."""
    rows = measure(load_config(overrides))
    with Path("text.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main(sys.argv[1:])
