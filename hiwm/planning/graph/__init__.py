"""A graph of landmarks over the latents of a level, for distances that are longer than one search can see."""

from hiwm.planning.explain.graph_path import GraphPath
from hiwm.planning.graph.edge_memory import EdgeMemory
from hiwm.planning.graph.landmarks import GraphConfig, LandmarkGraph, build_graph
from hiwm.planning.graph.navigator import GraphNavigator
from hiwm.planning.graph.stochastic import StochasticTransitions

__all__ = [
    "EdgeMemory",
    "GraphConfig",
    "GraphNavigator",
    "GraphPath",
    "LandmarkGraph",
    "StochasticTransitions",
    "build_graph",
]
