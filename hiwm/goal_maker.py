"""Makes goals and regions from observations, values of a part of the state, and words."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hiwm.agent_spec import AgentSpec
from hiwm.heads.action_bank import mean_step
from hiwm.heads.heads import Heads
from hiwm.heads.text import embed
from hiwm.hierarchy import Hierarchy
from hiwm.levels.standardize import split_columns
from hiwm.observation import Observation, to_tensors
from hiwm.planning.config import PlannerConfig
from hiwm.planning.goals import BoxRegion, Goal, LabelledRegion, ObservationGoal, PartGoal, PredicateRegion, in_steps
from hiwm.planning.goals.text import TextGoal
from hiwm.planning.shrinking_horizon import half_steps


class GoalMaker:
    """Makes the goals of one agent.

    Args:
        hierarchy: the levels that plan.
        heads: read the part of the state, or words.
        config: how the agent plans.
        spec: columns that goals are about.
    """

    def __init__(self, hierarchy: Hierarchy, heads: Heads, config: PlannerConfig, spec: AgentSpec) -> None:
        self.hierarchy, self.heads, self.config, self.spec = hierarchy, heads, config, spec
        # with goal columns a goal may still be a whole observation, given as an array
        whole = config.shrinking_horizon and (not spec.goal or len(heads.action_banks) >= len(hierarchy))
        #: cost of a reached goal at every level, for goals that are whole observations
        self.errors = half_steps(hierarchy, heads.action_banks) if whole else None

    def goal(self, goal: Observation | str | Sequence[str]) -> tuple[Goal, bool]:
        """The goal of an observation or of words, as `Agent.reset` describes, and whether it came without a batch axis."""
        observation: Any = goal  # numbers in lists are taken too
        if isinstance(goal, str):
            return self.text_goal([goal]), True
        if isinstance(goal, Sequence) and goal and isinstance(goal[0], str):
            return self.text_goal(goal), False
        if self.spec.goal and isinstance(goal, Mapping):
            if missing := [name for name in self.spec.goal if name not in goal]:
                raise ValueError(f"the goal has {sorted(goal)}; expected {missing[0]!r} too")
            return self.part_goal(goal), self._is_single(goal)
        uses_value = any(self.config.level(k).value_weight for k in range(len(self.hierarchy)))
        if uses_value and [*self.hierarchy.specs[0].inputs] == [*self.spec.goal]:
            part = {self.spec.goal[0]: np.asarray(goal)}
            return self.part_goal(part), self._is_single(part)
        tensors, single = to_tensors(observation, self.hierarchy, self.spec)
        p = [level.p for level in self.hierarchy.levels]
        return ObservationGoal(self.hierarchy.encode(tensors), self.errors, p), single

    def in_steps(self, goal: Goal) -> Goal:
        """The goal; in steps at metric levels, if it is one that many latents meet and no graph leads to it. See `StepsToGoal`."""
        real, steps = self._metric_levels
        return in_steps(goal, real, steps, self._write) if real and self.config.graph == "none" else goal

    def _write(self, level: int, latents: Tensor, part: Tensor) -> Tensor | None:
        """Latents (B, K, D) with the part of the state (B, G) in the inputs they hold, where it is not NaN; None if they do not hold it."""
        return self.hierarchy.write_inputs(level, latents, split_columns(part.unsqueeze(1), self.spec.part))

    @cached_property
    def _metric_levels(self) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
        """Real latents of the metric levels above level 0, and their mean distance over one step; measured once, not at every reset."""
        banks = dict(enumerate(self.heads.action_banks))
        levels = {k: level for k, level in enumerate(self.hierarchy.levels) if k and level.metric and k in banks}
        return {k: banks[k].start for k in levels}, {k: mean_step(level, banks[k], 1) for k, level in levels.items()}

    def text_goal(self, captions: Sequence[str]) -> TextGoal:
        """Goals that captions describe."""
        if not self.heads.texts:
            raise ValueError(
                f"the goal is the caption {captions[0]!r}; expected a hierarchy trained with text.learn=true"
            )
        return TextGoal(embed(captions).to(self.hierarchy.device), self.heads.texts)

    def part_goal(self, part: Mapping[str, Any]) -> PartGoal:
        """A goal on a part of the state.

        Args:
            part: columns that goals are about (`goal.columns`), each of its own shape or with a batch axis in front, in its own
                unit. NaN, or a column that is left out, means that any value will do.
        """
        wanted = self._columns(part, torch.nan)
        if wanted.isnan().all(1).any():
            raise ValueError(f"the goal's {sorted(part)} hold no number; expected at least one for every episode")
        return PartGoal(wanted, self.heads.readouts, self.config.cauchy_scale)

    def region(self, low: Mapping[str, Any], high: Mapping[str, Any]) -> BoxRegion:
        """A box, whose bounds are given like the part of `part_goal`; a column that is left out is unbounded."""
        least, most = torch.broadcast_tensors(self._columns(low, -torch.inf), self._columns(high, torch.inf))
        return BoxRegion(least, most, self.heads.readouts, self.config.cauchy_scale)

    def labelled(self, states: Mapping[str, Any], forbidden: Sequence[bool]) -> LabelledRegion:
        """A region for `KeepOut`: everything that is nearer to a forbidden one of these states than to any other.

        Args:
            states: every column that goals are about, each (N, *shape), in its own unit.
            forbidden: which of them are forbidden, (N,).
        """
        labels = torch.as_tensor(np.asarray(forbidden), device=self.hierarchy.device)
        return LabelledRegion(self._columns(states, torch.nan), labels, self.heads.readouts)

    def where(self, predicate: Callable[[Mapping[str, Tensor]], Tensor]) -> PredicateRegion:
        """A region for `KeepOut`: where a predicate on the part of the state that goals are about holds; see `PredicateRegion`."""
        if not self.spec.part:
            raise ValueError("the hierarchy has no state readout; expected one trained with goal.columns")
        return PredicateRegion(predicate, self.spec.part, self.heads.readouts)

    def _columns(self, part: Mapping[str, Any], other: float) -> Tensor:
        """The columns that goals are about, concatenated, (B, G), with `other` for those that are left out."""
        shapes = self.spec.part
        if not any(name in part for name in shapes):
            raise ValueError(
                f"the goal has {sorted(part)}; expected {list(shapes) or 'none, because goal.columns is empty'}"
            )
        columns = []
        for name, shape in shapes.items():
            values = np.full(shape, other, np.float32) if name not in part else np.asarray(part[name], np.float32)
            if values.shape != shape and values.shape[1:] != shape:
                raise ValueError(
                    f"the goal's {name} has the shape {values.shape}; expected {shape} or (batch, *{shape})"
                )
            columns.append(torch.from_numpy(values.reshape(-1, math.prod(shape))).to(self.hierarchy.device))
        batch = max(len(column) for column in columns)
        if wrong := [len(column) for column in columns if len(column) not in (1, batch)]:
            raise ValueError(f"the goal is for {[batch, *wrong]} episodes; expected the same number for {list(shapes)}")
        return torch.cat([column.expand(batch, -1) for column in columns], 1)

    def _is_single(self, goal: Mapping[str, Any]) -> bool:
        return all(np.shape(goal[name]) == shape for name, shape in self.spec.part.items())
