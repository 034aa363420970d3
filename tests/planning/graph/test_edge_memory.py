import pytest
import torch
from torch_geometric.data import Data

from hiwm.planning.graph.edge_memory import EdgeMemory
from hiwm.planning.graph.landmarks import LandmarkGraph
from hiwm.planning.graph.stochastic import StochasticTransitions


def line(number=8, cost=1.0):
    """Nodes 0, 1, ... on a line, edges to both neighbours."""
    at = torch.arange(float(number)).unsqueeze(1)
    right = torch.stack([torch.arange(number - 1), torch.arange(1, number)])
    edges = torch.cat([right, right.flip(0)], 1)
    return LandmarkGraph(Data(x=at, edge_index=edges, edge_attr=torch.full(edges[0].shape, cost)), edge_steps=3)


def cost(graph, start, end):
    return graph.cost_to_go(torch.tensor([end]))[start, 0].item()


def test_an_edge_that_failed_and_its_neighbours_cost_more_until_crossed():
    memory = EdgeMemory(line())
    assert cost(memory.graph, 0, 7) == 7
    memory.mark_failed(torch.tensor([2]), torch.tensor([3]), 10.0)
    # 0 -> 1 to 4 -> 5 are its neighbours, with ends within two edges of its own; so are the edges back
    assert cost(memory.graph, 0, 7) == 7 + 5 * 10
    assert cost(memory.graph, 5, 7) == 2
    assert cost(memory.original, 0, 7) == 7
    for _ in range(2):  # once is enough
        memory.mark_crossed(torch.tensor([2, 1]), torch.tensor([3, 1]))
        assert cost(memory.graph, 0, 7) == 7 + 4 * 10
        assert memory.graph.edges.shape == memory.original.edges.shape
    memory.reset()
    assert cost(memory.graph, 0, 7) == 7


def test_an_edge_that_shares_one_end_with_a_failed_one_stays_open():
    at = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 5.0], [2.0, 0.0]])
    edges = torch.tensor([[0, 1, 1], [1, 3, 2]])  # a long one leads from 1 to 2
    memory = EdgeMemory(LandmarkGraph(Data(x=at, edge_index=edges, edge_attr=torch.ones(3)), edge_steps=3))
    memory.mark_failed(torch.tensor([1]), torch.tensor([3]), 10.0)
    assert cost(memory.graph, 1, 3) == 11
    assert cost(memory.graph, 1, 2) == 1


def test_an_edge_that_was_never_seen_is_added():
    memory = EdgeMemory(line(cost=1.1))  # 1 + 0.1 x their relative length
    memory.mark_crossed(torch.tensor([0, 0]), torch.tensor([5, 5]))
    assert cost(memory.graph, 0, 5) == pytest.approx(1 + 0.1 * 5)
    assert cost(memory.graph, 5, 0) == pytest.approx(5.5)  # in one direction
    assert memory.graph.edges.shape[1] == memory.original.edges.shape[1] + 1


def test_a_memory_is_saved_and_belongs_to_its_graph(tmp_path):
    memory = EdgeMemory(line())
    memory.mark_failed(torch.tensor([2]), torch.tensor([3]), 10.0)
    memory.mark_crossed(torch.tensor([5]), torch.tensor([0]))
    memory.save(tmp_path / "edge_memory.safetensors")
    again = EdgeMemory(line())
    again.load(tmp_path / "edge_memory.safetensors")
    assert cost(again.graph, 1, 4) == cost(memory.graph, 1, 4) > 20
    assert cost(again.graph, 5, 0) == cost(memory.graph, 5, 0) < 2
    with pytest.raises(ValueError, match="edge memory of another landmark graph"):
        EdgeMemory(line(9)).load(tmp_path / "edge_memory.safetensors")


def test_stochastic_transitions_are_refused():
    graph = line()
    none = torch.zeros(0, dtype=torch.long)
    graph.stochastic = StochasticTransitions(none, none, none, none.float(), none.float(), 9.0)
    with pytest.raises(ValueError, match=r"graph.transitions is 'stochastic'; expected deterministic"):
        EdgeMemory(graph)
