"""What to reach, at whatever level it is asked, and what to stay out of on the way."""

from hiwm.planning.goals.combined import AnyOf, InOrder, Sum
from hiwm.planning.goals.goal import Aim, Goal, beside, squared_distance
from hiwm.planning.goals.keep_out import KeepOut, LabelledStates, Where, Zone
from hiwm.planning.goals.states import ObservationGoal, PartGoal, Region
from hiwm.planning.goals.text import TextGoal

__all__ = [
    "Aim",
    "AnyOf",
    "Goal",
    "InOrder",
    "KeepOut",
    "LabelledStates",
    "ObservationGoal",
    "PartGoal",
    "Region",
    "Sum",
    "TextGoal",
    "Where",
    "Zone",
    "beside",
    "squared_distance",
]
