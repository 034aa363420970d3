"""What to reach, for every level, and what to stay out of on the way."""

from hiwm.planning.goals.combined import AnyOf, CompositeGoal, Sum, Waypoints
from hiwm.planning.goals.goal import Goal, broadcast_to, distance_to
from hiwm.planning.goals.observation import BoxRegion, ObservationGoal, PartGoal
from hiwm.planning.goals.regions import KeepOut, LabelledRegion, PredicateRegion, Region
from hiwm.planning.goals.steps import StepsToGoal, in_steps

__all__ = [
    "AnyOf",
    "BoxRegion",
    "CompositeGoal",
    "Goal",
    "KeepOut",
    "LabelledRegion",
    "ObservationGoal",
    "PartGoal",
    "PredicateRegion",
    "Region",
    "StepsToGoal",
    "Sum",
    "Waypoints",
    "broadcast_to",
    "distance_to",
    "in_steps",
]
