"""Imagined distance: the distance between two latents is the number of steps that the level's own model takes between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components, shortest_path
from torch import Tensor

from hiwm.checks import at_least
from hiwm.levels.discrete import DiscreteInputs
from hiwm.levels.distance import distance
from hiwm.levels.distributed import uniform_rows
from hiwm.levels.encoders.beside_inputs import BesideInputsEncoder
from hiwm.levels.output import LevelOutput
from hiwm.levels.parts import Encoder, Regularizer

AT_ONCE = 50_000  # predictions at a time
SEARCHES = 64  # searches at a time
MOST_STEPS = 255  # longer paths count as this
# of the least gap between two values, by which an input is moved away from its own; no state lies there
BETWEEN = 0.3, 0.7


@dataclass(frozen=True)
class Graph:
    """The states that a level imagines, and the steps between them.

    Args:
        nodes: discrete inputs of each state, (M, C).
        largest: largest value of each of these inputs, (C,).
        gaps: least difference of two values of each, (C,).
        anchors: indices of the states from which paths were searched, (A,).
        steps: from the anchors to all states, (A, M); at most 255.
        farthest: most steps from an anchor to a state that it can reach.
        first: where the states that each anchor can reach begin in `reached`, (A,).
        count: how many they are, (A,).
        reached: indices of the states, one component after another, (M,).
    """

    nodes: Tensor
    largest: Tensor
    gaps: Tensor
    anchors: Tensor
    steps: Tensor
    farthest: float
    first: Tensor
    count: Tensor
    reached: Tensor


class ImaginedDistance(Regularizer):
    """Fit |z_i - z_j|, of random states i, j, to the steps S between them in a graph that the level's model imagines.

        mean of (|z_i - z_j| - S)^2 / (S + 1)  +  mean of max(0, F - |z_u - z_j|)^2 / (F + 1)

    Data visit few of the states of a world with many parts: of the 65,536 states of 16 buttons, a million steps of play visit
    about a third, and a graph over the data (`GraphDistance`) then misses nearly all paths. A model that has learned what one
    action does to one part also predicts it in states never seen. The level therefore learns its dynamics first. A state is
    here a combination of values of the discrete inputs, those that take at most 8 values in the data. From each state of the
    data the level predicts what real actions lead to, and once more from the states found in this way. All these states are
    the nodes of a graph, and predictions are its edges. States found in the second round have no predictions of their own, so
    paths to them may be too long. The other inputs, such as the position of an arm, are those from which the actions began,
    whatever state they are combined with. The embedding does not see them (`embedded` of the encoder), because it would learn
    slowly to ignore them.

    A prediction in which a discrete input is not near one of its values does not count, and its embedding must not look close
    to a goal: u is state i with one of its discrete inputs between two values, and F the largest S.

    A distance learned in a model's imagination: LEXA (Mendonca et al. 2021, arXiv 2110.09514), there by regression on
    imagined rollouts; here by shortest paths, as in Isomap, under the sum of absolute differences (see
    `hiwm.levels.distance`). It is symmetric, so it suits worlds in which steps can be undone.

    The graph is not saved with the level, because only its training needs it. Until there is a graph, the loss is 0.

    Args:
        inputs: shape of one step of every input; only a latent of the level below.
        encoder: of the level; must keep its inputs (`BesideInputsEncoder`), and embed the discrete ones alone.
        windows: windows of the data whose actions are imagined.
        actions: random ones of these from each state.
        states: most states that imagination adds.
        anchors: states from which paths to all others are searched; states i of the loss.
        pairs: states j for each of them.
    """

    metric = True
    imagines = True

    def __init__(
        self,
        *,
        inputs: Mapping[str, tuple[int, ...]],
        encoder: Encoder,
        windows: int = 100_000,
        actions: int = 32,
        states: int = 100_000,
        anchors: int = 2000,
        pairs: int = 8,
    ) -> None:
        super().__init__()
        if tuple(inputs) != ("latent",):
            raise ValueError(
                f"the level reads {', '.join(inputs)}; expected the latent of a level below, which holds the inputs"
            )
        if not isinstance(encoder, BesideInputsEncoder) or encoder.map_side is not None:
            raise ValueError(
                f"imagines states from inputs, and {type(encoder).__name__} keeps none or a map; expected encoder=beside_inputs, without a "
                "map_side, and predictor=via_inputs at the same level"
            )
        at_least(1, windows=windows, actions=actions, states=states, anchors=anchors, pairs=pairs)
        self._encoder = (encoder,)  # a tuple, or its weights would be part of the regularizer
        self.fit_windows, self.num_actions, self.most_states = windows, actions, states
        self.num_anchors, self.pairs = anchors, pairs
        self.graph: Graph | None = None

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> ImaginedDistance:
        """Move the graph with the module; it is no buffer, because data parallelism would send those at every step."""
        super()._apply(fn, recurse)
        if self.graph is not None:
            tensors = {name: fn(value) for name, value in vars(self.graph).items() if isinstance(value, Tensor)}
            self.graph = replace(self.graph, **tensors)
        return self

    def fit(self, inputs: Mapping[str, Tensor]) -> None:
        """Find out which inputs are discrete.

        Raises:
            ValueError: none is, or the encoder does not embed exactly these.
        """
        self.states = DiscreteInputs(inputs["latent"].flatten(0, 1))
        found, number, (encoder,) = self.states.columns.tolist(), inputs["latent"].shape[-1], self._encoder
        if found != list(range(number - encoder.embedded, number)):
            raise ValueError(
                f"of {number} inputs the encoder embeds the last {encoder.embedded}, and {len(found)} are discrete, {found}; expected the discrete ones last in "
                f"`inputs`, and encoder.embedded={len(found)} at this level"
            )

    def imagine(self, inputs: Tensor, actions: Tensor, step: Callable[[Tensor, Tensor], Tensor]) -> None:
        """Find the states, and the steps between them.

        Raises:
            ValueError: no prediction leads from one state to another.
        """
        rng, states, (encoder,) = np.random.default_rng(0), self.states, self._encoder
        nodes = front = np.unique(states.read(inputs)[0])
        edges, room = [], self.most_states
        for _ in range(2):  # from the states of the data, then from those found
            start, predicted = front.repeat(self.num_actions), []
            for chunk in np.split(start, range(AT_ONCE, len(start), AT_ONCE)):
                window = torch.from_numpy(rng.integers(len(inputs), size=len(chunk))).to(inputs.device)
                latent = step(encoder.embed(states.put(inputs[window], chunk)), actions[window])
                predicted.append(states.read(encoder.read_inputs(latent)))
            end, valid = (np.concatenate(parts) for parts in zip(*predicted, strict=True))
            edges.append(np.stack([start[valid], end[valid]]))
            front = rng.permutation(np.setdiff1d(end[valid], nodes))[:room]
            nodes, room = np.union1d(nodes, front), room - len(front)
        start, end = np.concatenate(edges, 1)
        if not (start != end).any():
            # no state was found in which to predict once more
            valid_share = len(start) / (len(nodes) * self.num_actions)
            raise ValueError(
                f"no prediction leads from one state to another, and {valid_share:.0%} are near values of all discrete inputs; expected "
                "predictor=via_inputs, and enough training.steps to learn the dynamics"
            )
        self.graph = self._search(nodes, start, end, rng, inputs.device)

    def _search(
        self, nodes: np.ndarray, start: np.ndarray, end: np.ndarray, rng: np.random.Generator, device: torch.device
    ) -> Graph:
        """Shortest paths along undirected edges from `start` (E,) to `end` (E,), from random states to all that can be reached."""
        known = np.isin(end, nodes)
        ends = np.searchsorted(nodes, start[known]), np.searchsorted(nodes, end[known])
        graph = csr_array((np.ones(known.sum()), ends), shape=(len(nodes), len(nodes)))
        _, component = connected_components(graph, directed=False)
        anchors = rng.permutation(len(nodes))[: self.num_anchors]
        steps, farthest = np.empty((len(anchors), len(nodes)), np.uint8), 0.0
        for first in range(0, len(anchors), SEARCHES):
            lengths = shortest_path(graph, directed=False, unweighted=True, indices=anchors[first : first + SEARCHES])
            farthest = max(farthest, lengths[np.isfinite(lengths)].max())
            steps[first : first + SEARCHES] = lengths.clip(max=MOST_STEPS)
        sizes = np.bincount(component)
        count = sizes[component[anchors]]
        tensors = {
            "anchors": anchors,
            "steps": steps,
            "first": sizes.cumsum()[component[anchors]] - count,
            "count": count,
            "reached": np.argsort(component, kind="stable"),
        }
        return Graph(
            nodes=self.states.of(nodes),
            largest=self.states.largest,
            gaps=self.states.gaps,
            farthest=float(min(farthest, MOST_STEPS)),
            **{name: torch.from_numpy(array).to(device) for name, array in tensors.items()},
        )

    def forward(self, output: LevelOutput, generator: torch.Generator) -> Tensor:
        graph, (encoder,) = self.graph, self._encoder
        if graph is None:
            return 0 * output.latent.sum()  # with a gradient, as data parallelism expects one
        rows = output.latent.shape[:2].numel()
        drawn = uniform_rows(rows, 3 + self.pairs, generator).to(output.latent.device)
        anchor = (drawn[:, 0] * len(graph.anchors)).long()
        among = (drawn[:, 3:] * graph.count[anchor].unsqueeze(1)).long()
        other = graph.reached[graph.first[anchor].unsqueeze(1) + among]  # (N, pairs)
        steps = graph.steps[anchor.unsqueeze(1), other].float()
        values = graph.nodes[graph.anchors[anchor]]
        start, end = encoder.embedding(values).unsqueeze(1), encoder.embedding(graph.nodes[other])
        error = (distance(start, end, p=1) - steps).square() / (steps + 1)
        unsure = encoder.embedding(_between(graph, values, drawn[:, 1:3])).unsqueeze(1)
        too_near = (graph.farthest - distance(unsure, end, p=1)).clamp_min(0)
        return error.mean() + (too_near.square() / (graph.farthest + 1)).mean()


def _between(graph: Graph, values: Tensor, drawn: Tensor) -> Tensor:
    """Discrete inputs of states (N, C), one of them moved between two of its values; by uniform draws (N, 2)."""
    column = (drawn[:, :1] * values.shape[1]).long()
    direction = torch.where(values < graph.largest, 1.0, -1.0).gather(1, column)
    moved = BETWEEN[0] + (BETWEEN[1] - BETWEEN[0]) * drawn[:, 1:]
    return values.scatter_add(1, column, direction * moved * graph.gaps[column])
