"""The episode viewer of the report: recorded episodes with their plans, decoded to states and frames, as data for viewer.js."""

from __future__ import annotations

import base64
import gzip
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from PIL import Image

from hiwm.agent import Agent
from hiwm.analysis.decode import StateDecoder
from hiwm.analysis.shown_states import NONE, SHOWN, ShownStates, rounded
from hiwm.data.store import Trajectories
from hiwm.envs.oracle import Wall
from hiwm.evaluation.frames import image_input
from hiwm.evaluation.outcomes import LevelTrace, Trace
from hiwm.planning.explain.outcome import OPEN, WORDS
from hiwm.planning.graph.landmarks import LandmarkGraph

LIMIT = 10_000_000  # bytes of the page
CLOUD = 1500  # states of the data that are drawn behind a map without walls
EDGES = 4000  # of a landmark graph that are drawn
JPEG_FROM = 2000  # bytes of a PNG from which a JPEG is tried
NO_FRAMES = 1000  # bytes of the table of frames without any frame
ADVICE = "To see them, evaluate fewer tasks under another name (evaluation.name, evaluation.num_tasks), or read the .npz of the evaluation with hiwm.evaluation.traces.load_traces."


@dataclass(frozen=True)
class Scene:
    """What episodes are drawn with.

    Args:
        agent: of the experiment.
        dataset: real states.
        state: columns of the true state.
        walls: rectangles of the map that all episodes share; empty without a map.
        labels: names of the numbers of a state.
        graphs: agent -> number of the level whose landmark graph it plans on; only agents with a graph.
    """

    agent: Agent
    dataset: Trajectories
    state: Sequence[str]
    walls: Sequence[Wall]
    labels: Sequence[str]
    graphs: Mapping[str, int]

    @cached_property
    def decoder(self) -> StateDecoder:
        """Turns latents into states."""
        return StateDecoder(self.agent, self.dataset, self.state)


def episode_data(agent: str, trace: Trace, states: ShownStates, discrete: bool) -> dict[str, Any]:
    """One episode as the page shows it; discrete actions are shown by their numbers."""
    actions = trace.actions.argmax(1)[:, None] if discrete else trace.actions
    return {
        "agent": agent,
        "task": trace.task,
        "episode": trace.episode,
        "success": trace.success,
        "steps": trace.steps,
        "path": rounded(trace.states[:, :SHOWN], 4),
        "goal": rounded(trace.goal[:SHOWN], 4),
        "walls": rounded(trace.walls, 4),
        "actions": rounded(actions[:, :SHOWN], 3),
        "frameSteps": trace.frame_steps.tolist(),
        "levels": [level_data(k, level, trace.seen, states) for k, level in enumerate(trace.levels)],
    }


def level_data(k: int, level: LevelTrace, seen: np.ndarray, states: ShownStates) -> dict[str, Any]:
    """What one level did: columns with a value for each plan; places of `ShownStates` for latents."""
    plans = level.plans
    exact = {"step", "deadline", "outcome", "decided", "path_target", "cheapest", "goal_within"}
    numbers = ("current_cost", "nearest", "cost", "parts", "disagreement", "penalty", "violation", "value", "left",
               "path_cost", "alternative_cost", "alternative_distance", "alternative_penalty", "alternative_violation")  # fmt: skip
    data: dict[str, Any] = {name: plans[name].tolist() for name in exact if name in plans}
    data |= {name: rounded(plans[name], 3) for name in numbers if name in plans}
    if "path" in plans:
        data["path"] = [[node for node in path if node >= 0] for path in plans["path"].tolist()]
    spaces = {"subgoal": k, "predicted": k, "alternative_subgoal": k, "target": level.target_level}
    for name, space in spaces.items():
        if name in plans:
            places, distance = states.of_latents(space, plans[name])
            data[name] = places.tolist()
            if space == k:
                data[f"{name}_off"] = rounded(distance / level.step_length, 3)
    if "alternative_cost" in plans:  # of no further alternative
        none = ~np.isfinite(plans["alternative_cost"])
        data["alternative_subgoal"] = np.where(none, NONE, data["alternative_subgoal"]).tolist()
    return {
        "level": k,
        "period": level.period,
        "targetLevel": level.target_level,
        "partNames": level.parts,
        "plans": data | realised(level, seen),
        "why": level.why,
    }


def realised(level: LevelTrace, seen: np.ndarray) -> dict[str, Any]:
    """Distances of predicted latents from those the episode was in at their time, and of the latent at the plan from these, (P, H).

    They are in typical steps of the level; NaN where the episode had ended, or its latent was not recorded.
    """
    if "predicted" not in level.plans:
        return {}
    predicted = level.plans["predicted"]
    times = level.plans["step"][:, None] + level.period * (1 + np.arange(predicted.shape[1]))
    place = np.searchsorted(seen, times).clip(max=len(seen) - 1)
    then = level.latents[place]
    start = level.latents[np.searchsorted(seen, level.plans["step"]).clip(max=len(seen) - 1)]
    known = seen[place] == times
    error = np.linalg.norm(predicted - then, axis=-1) / level.step_length
    moved = np.linalg.norm(start[:, None] - then, axis=-1) / level.step_length
    return {name: rounded(np.where(known, values, np.nan), 3) for name, values in (("error", error), ("moved", moved))}


def graph_data(graph: LandmarkGraph, level: int, states: ShownStates, seed: int = 0) -> dict[str, Any]:
    """The landmarks of a graph as real states, and its edges or a sample of them."""
    edges = graph.edges.cpu().numpy().T
    if len(edges) > EDGES:
        edges = edges[np.sort(np.random.default_rng(seed).choice(len(edges), EDGES, replace=False))]
    nodes = states.at_rows(graph.data["row"].cpu().numpy())
    return {"level": level, "nodes": nodes.tolist(), "edges": edges.tolist(), "all": int(graph.edges.shape[1])}


class Viewer:
    """Everything that the viewer shows, packed for the page.

    Args:
        traces: agent -> its recorded episodes.
        scene: what they are drawn with.
    """

    def __init__(self, traces: Mapping[str, Sequence[Trace]], scene: Scene) -> None:
        # where level 0 holds the state, an input that looks like an image may be a map, and real states with another map would mislead
        held = scene.decoder.held(0, scene.decoder.latents[0][:1])
        image = image_input(scene.agent.inputs) if held is None else None
        self.states = ShownStates(scene.decoder, scene.dataset, scene.state, image)
        ordered = [(name, trace) for name, of in traces.items() for trace in sorted(of, key=_failures_first)]
        self.traces = [trace for _, trace in ordered]
        self.shown = [episode_data(name, trace, self.states, scene.agent.spec.discrete) for name, trace in ordered]
        self.packed = [pack(episode) for episode in self.shown]
        self.tables = pack({
            "graphs": {name: graph_data(scene.agent.graphs[level], level, self.states) for name, level in scene.graphs.items()},
            "cloud": [] if scene.walls else rounded(scene.decoder.states[:: max(1, len(scene.decoder.states) // CLOUD), :SHOWN], 3),
            "states": self.states.numbers(),
        })  # fmt: skip
        self.head = {
            "axes": list(scene.labels[:SHOWN]),
            "walls": rounded(np.array(scene.walls, float).reshape(-1, 4), 4),
            "outcomes": {OPEN: "undecided when the episode ended", **WORDS},
            "failurePenalty": scene.agent.planner.config.failure_penalty,
            "pictures": self.states.image is not None,
        }
        #: bytes of the page besides the episodes and frames; 200 for the tags and the entry of each episode
        self.fixed = len(self.tables) + len(safe_json(self.head)) + 200 * len(self.shown) + NO_FRAMES

    @property
    def least(self) -> int:
        """Bytes of the page that the viewer needs to hold all failures."""
        failed = zip(self.shown, self.packed, strict=True)
        return self.fixed + sum(len(packed) for episode, packed in failed if not episode["success"])

    def fill(self, space: int) -> dict[str, Any]:
        """As much as fits into so many bytes, as strings for the page.

        Returns:
            `head`, JSON that is safe within a script element; `tables`, `episodes` and `frames`, base64 of compressed JSON;
            `left_out`, sentences on what did not fit.
        """
        space -= self.fixed
        kept, left_out = choose(self.shown, [len(each) for each in self.packed], space)
        spare = space + NO_FRAMES - sum(len(self.packed[i]) for i in kept)
        frames, missing = pack_frames([self.traces[i] for i in kept], [self.shown[i] for i in kept], self.states, spare)
        if missing:
            left_out.append(
                f"{missing:,} frames of observations or of real states near latents do not fit into the page. {ADVICE}"
            )
        listed = [{key: self.shown[i][key] for key in ("agent", "task", "episode", "success", "steps")} for i in kept]
        return {
            "head": safe_json(self.head | {"episodes": listed}),
            "tables": self.tables,
            "episodes": [self.packed[i] for i in kept],
            "frames": frames,
            "left_out": left_out,
        }


def _failures_first(trace: Trace) -> tuple[bool, int, int]:
    return trace.success, trace.task, trace.episode


def choose(episodes: Sequence[Mapping[str, Any]], sizes: Sequence[int], space: int) -> tuple[list[int], list[str]]:
    """Which episodes fit into so many bytes, in order: failures first; and a sentence on those that do not."""
    ranked = sorted(range(len(episodes)), key=lambda i: episodes[i]["success"])
    kept, used = [], 0
    for i in ranked:
        if used + sizes[i] <= space:
            kept.append(i)
            used += sizes[i]
    lost = [i for i in ranked if i not in kept]
    if not lost:
        return sorted(kept), []
    failed = sum(not episodes[i]["success"] for i in lost)
    failures, successes = _count(failed, "failure", "failures"), _count(len(lost) - failed, "success", "successes")
    return sorted(kept), [
        f"{len(lost)} of {len(episodes)} recorded episodes ({failures}, {successes}) do not fit into the page. {ADVICE}"
    ]


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def pack_frames(
    traces: Sequence[Trace], shown: Sequence[Mapping[str, Any]], states: ShownStates, space: int
) -> tuple[str, int]:
    """Frames as packed data URIs: observations first, then subgoals and targets, alternatives, and predictions.

    Returns:
        Packed JSON with `table`, the URIs; `states`, place of a real state -> index; `episodes`, indices of the frames of each
        episode. And the number of frames that did not fit.
    """
    table: dict[str, int] = {}
    content: dict[str, Any] = {"table": [], "states": {}, "episodes": []}
    left, missing = space - NO_FRAMES, 0

    def index(frame: np.ndarray) -> int:
        nonlocal left, missing
        uri = data_uri(frame)
        if uri not in table:
            if len(uri) > left:
                missing += 1
                return NONE
            left -= int(1.03 * len(uri)) + 16  # compression gives back what base64 takes twice, but for 3 %
            table[uri] = len(table)
        return table[uri]

    for trace in traces:
        content["episodes"].append([] if states.image is None else [index(frame) for frame in trace.frames])
    if states.image is not None:
        places = _places(shown)
        for first in range(0, len(places), 256):
            block = places[first : first + 256]
            for place, frame in zip(block, states.frames(block), strict=True):
                content["states"][place] = index(frame)
    content["table"] = list(table)
    return pack(content), missing


def _places(shown: Sequence[Mapping[str, Any]]) -> list[int]:
    """Places of all real states that episodes show, the most important first."""
    found: dict[int, None] = {}
    for name in ("subgoal", "target", "alternative_subgoal", "predicted"):
        for episode in shown:
            for level in reversed(episode["levels"]):
                found |= dict.fromkeys(np.array(level["plans"].get(name, []), int).reshape(-1).tolist())
    found.pop(NONE, None)
    return list(found)


def data_uri(frame: np.ndarray) -> str:
    """A frame (H, W, 1 or 3) of bytes as PNG, or as JPEG where that is smaller."""
    image = Image.fromarray(frame if frame.shape[-1] == 3 else frame[..., 0])

    def encoded(kind: str, **options: Any) -> bytes:
        written = io.BytesIO()
        image.save(written, kind, **options)
        return written.getvalue()

    content, kind = encoded("PNG", optimize=True), "png"
    if len(content) > JPEG_FROM and len(other := encoded("JPEG", quality=80)) < len(content):
        content, kind = other, "jpeg"
    return f"data:image/{kind};base64," + base64.b64encode(content).decode()


def pack(content: Any) -> str:
    """JSON, compressed, in base64; viewer.js unpacks it."""
    return base64.b64encode(gzip.compress(json.dumps(content, separators=(",", ":")).encode(), mtime=0)).decode()


def safe_json(content: Any) -> str:
    """JSON that no text can turn into markup within a script element."""
    text = json.dumps(content, separators=(",", ":"))  # ASCII
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
