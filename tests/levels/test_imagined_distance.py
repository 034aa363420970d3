"""The distance that a level's own model imagines, where the answer is known."""

import itertools

import numpy as np
import pytest
import torch

from hiwm.levels.discrete import DiscreteInputs
from hiwm.levels.encoders.beside_inputs import BesideInputsEncoder
from hiwm.levels.encoders.mlp import MLPEncoder
from hiwm.levels.output import LevelOutput
from hiwm.levels.regularizers.imagined_distance import ImaginedDistance

SWITCHES = 6


def rows_of(states, position=0.0):
    """A position, which is not discrete, and switches that are -1 or 1: (N, 6) booleans -> (N, 7)."""
    states = torch.as_tensor(np.array(states)).float()
    position = torch.linspace(0, 1, len(states)).unsqueeze(1) + position
    return torch.cat([position, 2 * states - 1], 1)


ALL = list(itertools.product([0, 1], repeat=SWITCHES))


class Embedding(torch.nn.Module):
    """Its distance is the number of switches that differ, and large where one is neither on nor off."""

    scale, of_unsure = 0.5, 10.0

    def forward(self, x):
        unsure = ((x.abs() - 1).abs() > 0.2).any(-1, keepdim=True)
        return torch.cat([self.scale * x, self.of_unsure * unsure], -1)


class Switches:
    """A level that knows what actions do: action k turns switch k."""

    def __init__(self, **arguments):
        self.encoder = BesideInputsEncoder(inputs={"latent": (1 + SWITCHES,)}, dim=SWITCHES, embedded=SWITCHES)
        self.encoder.net = Embedding()
        self.regularizer = ImaginedDistance(inputs={"latent": (1 + SWITCHES,)}, encoder=self.encoder, **arguments)

    def step(self, latent, actions):
        inputs = self.encoder.read_inputs(latent).clone()
        k = 1 + actions[:, 0, 0].long()
        inputs[torch.arange(len(k)), k] *= -1
        return self.encoder.embed(inputs)

    def imagine(self, rows, step=None):
        """From windows that begin at these rows, (N, 7); each action is as frequent as the others."""
        self.regularizer.fit({"latent": rows.unsqueeze(1).repeat(1, 2, 1)})
        actions = (torch.arange(len(rows)) % SWITCHES).float().view(-1, 1, 1)
        with torch.no_grad():
            self.regularizer.imagine(rows, actions, step or self.step)
        return self.regularizer.graph

    def loss(self, **changes):
        vars(self.encoder.net).update(changes)
        rows = rows_of(ALL)
        latent = self.encoder.embed(rows).unsqueeze(1)
        output = LevelOutput({"latent": rows.unsqueeze(1)}, latent, latent, latent, latent, latent)
        return self.regularizer(output, torch.Generator().manual_seed(0)).item()


def few_states():
    """Seven of the 64 states, in which no switch is on or one; often enough for each action."""
    return rows_of([[int(k == i) for k in range(SWITCHES)] for i in range(12) for _ in range(6)])


def test_paths_lead_through_states_that_no_data_have():
    level = Switches(actions=64)
    graph = level.imagine(few_states())
    states = (graph.nodes + 1) / 2
    seen = {tuple(row) for row in ((few_states()[:, 1:] + 1) / 2).int().tolist()}
    assert len(seen) == 7
    # none, one or two more switches than the data have: none to three of six
    assert sorted(map(tuple, states.int().tolist())) == sorted(state for state in ALL if sum(state) <= 3)
    apart = (states[graph.anchors].unsqueeze(1) - states).abs().sum(2)
    assert torch.equal(graph.steps.float(), apart)
    assert level.loss() == pytest.approx(0, abs=1e-5)
    assert level.loss(scale=1.0) > 0.5


def test_a_state_between_two_is_far_from_all():
    level = Switches(actions=64)
    graph = level.imagine(few_states())
    assert graph.farthest == 6
    # half a switch more or less than the 0 to 6 that differ; its share of the distance is missing
    assert level.loss(of_unsure=3.0) > 0.05
    assert level.loss(of_unsure=6.5) == pytest.approx(0, abs=1e-5)


def test_without_a_model_there_is_no_loss():
    assert Switches().loss() == 0


def test_the_number_of_imagined_states_is_bounded():
    graph = Switches(actions=64, states=5, anchors=4).imagine(few_states())
    assert len(graph.nodes) == 7 + 5
    assert graph.steps.shape == (4, 12)


def test_unsure_predictions_are_refused():
    level = Switches(actions=64)

    def unsure(latent, actions):
        inputs = level.encoder.read_inputs(latent)
        return level.encoder.embed(torch.where(torch.arange(7) == 3, 0.3, inputs))  # neither -1 nor 1

    with pytest.raises(ValueError, match=r"no prediction leads from one state to another, and 0% are near values"):
        level.imagine(few_states(), unsure)


def test_predictions_that_change_nothing_are_refused():
    level = Switches(actions=64)
    with pytest.raises(ValueError, match=r"no prediction leads .*, and 100% are near values"):
        level.imagine(few_states(), lambda latent, actions: latent)


def test_states_of_other_components_are_not_compared():
    """Switch 0 cannot be turned."""
    level = Switches(actions=64)
    rows = few_states()
    graph = level.imagine(rows, lambda latent, actions: level.step(latent, actions.clamp_min(1)))
    component = graph.nodes[:, 0]
    for anchor, first, count in zip(graph.anchors, graph.first, graph.count, strict=True):
        assert (component[graph.reached[first : first + count]] == component[anchor]).all()
    assert level.loss() == pytest.approx(0, abs=1e-5)


def test_the_graph_is_not_saved_but_moves_with_the_level():
    level = Switches()
    assert level.imagine(few_states()) is level.regularizer.graph
    assert not level.regularizer.state_dict()
    assert level.regularizer.to("meta").graph.steps.is_meta


def test_action_encoders_see_inputs_that_are_not_embedded():
    rows = rows_of(ALL[:2])
    encoder = Switches().encoder
    torch.testing.assert_close(encoder.for_actions(encoder.embed(rows))[:, :7], rows)
    whole = BesideInputsEncoder(inputs={"latent": (7,)}, dim=2)
    latent = whole.embed(rows)
    assert whole.for_actions(latent) is latent


def test_discrete_inputs_are_found_read_and_put():
    rows = rows_of(ALL)
    found = DiscreteInputs(rows)
    assert found.columns.tolist() == [1, 2, 3, 4, 5, 6]
    states, sure = found.read(rows)
    assert len(set(states.tolist())) == 64
    assert sure.all()
    assert torch.equal(found.of(states), rows[:, 1:])
    other = rows_of(ALL[::-1], position=5.0)
    assert torch.equal(found.put(other, states), torch.cat([other[:, :1], rows[:, 1:]], 1))
    between = rows.clone()
    between[:, 4] += 0.5  # a quarter of the gap
    assert np.array_equal(found.read(between)[0], states)
    assert not found.read(between)[1].any()
    between[:, 4] -= 0.2
    assert found.read(between)[1].all()


def test_rounding_makes_no_new_value():
    rows = torch.tensor([[0.10005], [0.10005 + 1e-6], [0.7]])
    assert len(DiscreteInputs(rows).values[0]) == 2


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (torch.linspace(0, 1, 50).unsqueeze(1), "none of the 1 inputs takes between 2 and 8 values in the data"),
        (torch.cat([torch.linspace(0, 1, 5000), torch.tensor([2.0, 3.0])]).unsqueeze(1), "none of the 1 inputs"),
        (torch.zeros(50, 2), "none of the 2 inputs takes between 2 and 8 values"),
        (torch.arange(2.0).view(2, 1).expand(2, 70), "70 of the inputs are discrete and make up 2\\^62 states or more"),
    ],
)
def test_inputs_without_states_are_refused(rows, message):
    with pytest.raises(ValueError, match=message):
        DiscreteInputs(rows)


@pytest.mark.parametrize(("rows", "embedded"), [(few_states(), 7), (few_states().flip(1), 6), (few_states(), 5)])
def test_an_embedding_of_other_inputs_is_refused(rows, embedded):
    encoder = BesideInputsEncoder(inputs={"latent": (7,)}, dim=2, embedded=embedded)
    regularizer = ImaginedDistance(inputs={"latent": (7,)}, encoder=encoder)
    with pytest.raises(
        ValueError, match=rf"embeds the last {embedded}, and 6 are discrete.*; expected .*embedded=6 at"
    ):
        regularizer.fit({"latent": rows.unsqueeze(1)})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"encoder": MLPEncoder(inputs={"latent": (3,)}, dim=2)}, "MLPEncoder keeps none or a map; expected encoder=beside_inputs"),
        ({"inputs": {"state": (3,)}}, "the level reads state; expected the latent of a level below"),
        ({"actions": 0}, "actions is 0; expected at least 1"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused(arguments, message):
    given = {"inputs": {"latent": (3,)}, "encoder": BesideInputsEncoder(inputs={"latent": (3,)}, dim=2)}
    with pytest.raises(ValueError, match=message):
        ImaginedDistance(**(given | arguments))
