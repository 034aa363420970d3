import pytest
import torch
from torch_geometric.data import Data

from hiwm.planning.experience import Experience
from hiwm.planning.landmarks import LandmarkGraph
from hiwm.planning.outcomes import Outcomes


def line(number=8, cost=1.0):
    """Landmarks 0, 1, ... on a line, edges to both neighbours."""
    at = torch.arange(float(number)).unsqueeze(1)
    right = torch.stack([torch.arange(number - 1), torch.arange(1, number)])
    edges = torch.cat([right, right.flip(0)], 1)
    return LandmarkGraph(Data(x=at, edge_index=edges, edge_attr=torch.full(edges[0].shape, cost)), edge_steps=3)


def cost(graph, start, end):
    return graph.cost_to_go(torch.tensor([end]))[start, 0].item()


def test_a_way_that_failed_costs_more_with_those_beside_it_until_it_is_crossed():
    experience = Experience(line())
    assert cost(experience.graph, 0, 7) == 7
    experience.failed(torch.tensor([2]), torch.tensor([3]), 10.0)
    # 0 -> 1 to 4 -> 5 run beside it, with ends within two edges of it; the ways back have ends as near
    assert cost(experience.graph, 0, 7) == 7 + 5 * 10
    assert cost(experience.graph, 5, 7) == 2
    assert cost(experience.known, 0, 7) == 7
    for _ in range(2):  # once is enough
        experience.crossed(torch.tensor([2, 1]), torch.tensor([3, 1]))
        assert cost(experience.graph, 0, 7) == 7 + 4 * 10
        assert experience.graph.edges.shape == experience.known.edges.shape
    experience.forget()
    assert cost(experience.graph, 0, 7) == 7


def test_a_way_that_was_never_seen_is_added():
    experience = Experience(line(cost=1.1))  # 1 + 0.1 x their relative length
    experience.crossed(torch.tensor([0, 0]), torch.tensor([5, 5]))
    assert cost(experience.graph, 0, 5) == pytest.approx(1 + 0.1 * 5)
    assert cost(experience.graph, 5, 0) == pytest.approx(5.5)  # one way
    assert experience.graph.edges.shape[1] == experience.known.edges.shape[1] + 1


def test_experience_is_saved_and_belongs_to_its_graph(tmp_path):
    experience = Experience(line())
    experience.failed(torch.tensor([2]), torch.tensor([3]), 10.0)
    experience.crossed(torch.tensor([5]), torch.tensor([0]))
    experience.save(tmp_path / "experience.safetensors")
    again = Experience(line())
    again.load(tmp_path / "experience.safetensors")
    assert cost(again.graph, 1, 4) == cost(experience.graph, 1, 4) > 20
    assert cost(again.graph, 5, 0) == cost(experience.graph, 5, 0) < 2
    with pytest.raises(ValueError, match="experience of another landmark graph"):
        Experience(line(9)).load(tmp_path / "experience.safetensors")


def test_expected_outcomes_are_refused():
    graph = line()
    none = torch.zeros(0, dtype=torch.long)
    graph.outcomes = Outcomes(none, none, none, none.float(), none.float(), 9.0)
    with pytest.raises(ValueError, match=r"planner.feedback needs a graph of landmarks.outcomes best"):
        Experience(graph)
