"""How to plan: the keys of `planner` in a config, and what they may be."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hiwm.checks import at_least, within
from hiwm.planning.proposals import PRIMITIVE, PROPOSALS, Mixture
from hiwm.planning.schedule import SCHEDULES

LANDMARKS = ("none", "direct", "search")
#: lists that may be empty, which means 0 for every level
WEIGHTS = ("goal_weight", "cost_to_go", "disagreement")


@dataclass(frozen=True)
class PlannerConfig:
    """How the stack plans. Lists have one entry a level, bottom first; a planner of fewer levels reads the first ones.

    Args:
        landmarks: none: the top level searches for the goal itself. direct: the next landmark on the way to the goal is
            handed to the level below as it is. search: the top level searches for that landmark.
        hops: how many landmarks ahead is aimed at.
        feedback: cost that is added to a way which did not lead on; 0 to learn nothing from it. Of ways between landmarks, in
            edges; of ways to subgoals that a level searched for, in energies of where the episode is, until the episode ends.
        patience: a way did not lead on if for this many times as long as its end should take the cost to go over the
            landmarks has not become less, or the subgoal is not reached.
        budget: predictor calls an environment step and episode, shared evenly by the levels that search. A solver that
            differentiates has fewer candidates for it: the backward pass counts as two calls.
        proposal: gaussian: search from N(0, std). inverse: the inverse model's actions, no search. inverse+search:
            search around the inverse model's actions. bank: of the real sequences that started nearest to here, search around the one that leads nearest to the
            target by the level's predictor; as many are tried as a round of the search has candidates. prior: search the
            noise that the level's prior turns into macro-actions (see `hiwm.heads.action_prior`). Another search's name
            with +inverse or +bank behind it, e.g. gaussian+inverse+bank: its first round also tries the inverse model's
            actions, or the nearest real sequences in place of half of the candidates.
        horizon: steps of the level a plan looks ahead.
        replan: environment steps between two plans of the level.
        repeat: in a search, level 0 holds a primitive action for so many environment steps, an upper level a macro-action
            for so many steps of its own (1 except where steps are short).
        std: deviation of gaussian proposals, in the unit of the level's actions.
        inverse_std: deviation around the inverse model's actions, or around the bank's sequence.
        macro_bound: macro-actions are clamped to +- this many deviations, with bank instead to the 2 % and 98 %
            quantiles of recent real ones; level 0's actions to those in the data.
        goal_width: energy of a goal on a part of the state: null for the squared distance in deviations of the data; else, of
            every number of it, log(1 + (distance / width)^2), the distance in those deviations (the Cauchy or Lorentzian
            loss; Levine et al. 2016, arXiv 1504.00702, equation 4 add such a term for precision): what is nearly there is
            finished before anything else is begun.
        goal_weight: of the goal's energy in the search of a level below the top, beside the subgoal's; the top level's entry
            is not read, none at all means 0. A lower level often sees the goal more sharply than the one above it.
        schedule: fixed: plans aimed at the goal always look the whole horizon ahead. shrink: once one meets the goal, later
            ones may take no longer, and the level below takes over at the end; see `hiwm.planning.schedule`. Only a search
            can do so: a level that follows its inverse model is asked for the last subgoal.
        solver: the search method, one of `configs/solver/`.
        discrete_solver: that of level 0 where the environment's actions are discrete: one-hot vectors.
        warm_start: a search also tries what the level's last one ended with, shifted by the steps that have passed since;
            the end of the horizon is filled with the proposal's mean.
        milliseconds: longest search of a level, for the whole batch; null: none. A search stops after the round that another
            one would take beyond it, with the best so far, so that plans are not reproducible. The budget still counts: to
            plan by time alone, raise it and the solver's iterations by the same factor.
        cost_to_go: weight, in the energy of a search, of the steps of the level from there to the goal, by what the level has
            learned of them (see `hiwm.heads.value`); empty for none. For goals on a part of the state.
        disagreement: weight, in the energy of a search, of the expected squared error of the level's ensemble, the largest up
            to the step that counts (see `Calibration.doubt`); empty for none. With 1 it weighs as much as a squared distance
            in the level's latents.
        half_precision: whether a search's candidates are predicted in bfloat16 where the processor has it. The way that is
            chosen is predicted again in float32. Measure it: some processors are slower at it.
    """

    landmarks: str
    hops: int
    budget: float
    proposal: Sequence[str]
    horizon: Sequence[int]
    replan: Sequence[int]
    repeat: Sequence[int]
    std: Sequence[float]
    inverse_std: Sequence[float]
    macro_bound: float
    solver: Mapping[str, Any]
    discrete_solver: Mapping[str, Any] | None = None
    warm_start: bool = False
    milliseconds: float | None = None
    feedback: float = 0.0
    patience: float = 3.0
    goal_width: float | None = None
    goal_weight: Sequence[float] = ()
    schedule: str = "fixed"
    cost_to_go: Sequence[float] = ()
    disagreement: Sequence[float] = ()
    half_precision: bool = False

    def check(self, num_levels: int) -> None:
        """Raise a ValueError that names the key when the config does not fit a stack of `num_levels`."""
        if self.landmarks not in LANDMARKS:
            raise ValueError(f"planner.landmarks is {self.landmarks!r}; allowed: {', '.join(LANDMARKS)}")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"planner.schedule is {self.schedule!r}; allowed: {', '.join(SCHEDULES)}")
        if self.schedule != "fixed" and self.landmarks != "none":
            raise ValueError(
                f"planner.schedule is {self.schedule!r}; allowed: fixed, for planner.landmarks is {self.landmarks!r}: what is "
                "aimed at is then mostly no goal"
            )
        for key in ("proposal", "horizon", "replan", "repeat", "std", "inverse_std", *WEIGHTS):
            values = getattr(self, key)
            if len(values) < num_levels and (values or key not in WEIGHTS):
                raise ValueError(f"planner.{key} is {list(values)}; allowed: one entry for each of {num_levels} levels")
        at_least("planner.", 1, hops=self.hops, patience=self.patience)
        at_least("planner.", 0, feedback=self.feedback)
        for key in ("milliseconds", "goal_width"):
            if (value := getattr(self, key)) is not None:
                within("planner.", "(0, inf)", **{key: value})
        for key in ("horizon", "replan", "repeat"):
            at_least("planner.", 1, **{f"{key}[{k}]": getattr(self, key)[k] for k in range(num_levels)})
        for key in WEIGHTS:
            at_least("planner.", 0, **{f"{key}[{k}]": weight for k, weight in enumerate(getattr(self, key))})
        for k in range(num_levels):
            allowed = PROPOSALS if k else PRIMITIVE
            if self.proposal[k] not in allowed:
                raise ValueError(f"planner.proposal[{k}] is {self.proposal[k]!r}; allowed: {', '.join(allowed)}")
            if k and self.horizon[k] % self.repeat[k]:
                raise ValueError(
                    f"planner.horizon[{k}] is {self.horizon[k]}; allowed: a multiple of repeat {self.repeat[k]}"
                )
            if self.replan[k] % self.replan[0]:
                raise ValueError(f"planner.replan is {list(self.replan)}; allowed: multiples of the first")
        for k in range(num_levels):
            if self.proposal[k] == "prior" and not self.searches(k, num_levels - 1):
                raise ValueError(
                    f"planner.proposal[{k}] is 'prior', but level {k} does not search: planner.landmarks is "
                    f"{self.landmarks!r}; allowed: planner.landmarks none or search, or another proposal"
                )
        for key in ("cost_to_go", "disagreement"):
            for k, weight in enumerate(getattr(self, key)[:num_levels]):
                if weight and not self.searches(k, num_levels - 1):
                    raise ValueError(
                        f"planner.{key}[{k}] is {weight}; allowed: 0, for level {k} does not search: it follows the inverse "
                        "model (planner.proposal) or hands a landmark down (planner.landmarks direct)"
                    )

    def check_learned(self, num_levels: int, action_priors: Collection[int], values: Collection[int]) -> None:
        """Raise a ValueError when it asks for an action prior or a value of other levels than have learned one."""
        for k in range(num_levels):
            if self.proposal[k] == "prior" and k not in action_priors:
                raise ValueError(
                    f"planner.proposal[{k}] is 'prior' but level {k} learns none; allowed: another proposal, or `hiwm train` "
                    f"with action_prior.levels=[{k}]"
                )
            if k < len(self.cost_to_go) and self.cost_to_go[k] and k not in values:
                raise ValueError(
                    f"planner.cost_to_go[{k}] is {self.cost_to_go[k]} but level {k} learns none; allowed: 0, or `hiwm train` with "
                    f"value.levels=[{k}]"
                )

    def weight(self, name: str, k: int) -> float:
        """Level k's entry of one of `WEIGHTS`."""
        weights = getattr(self, name)
        return weights[k] if weights else 0.0

    def mixture(self, k: int, top: int) -> Mixture:
        """Level k's proposal; above level 0 a top level has no inverse model above it and searches from a Gaussian."""
        name = Mixture.of(self.proposal[k])
        return name.without_inverse() if 0 < k == top else name

    def searches(self, k: int, top: int) -> bool:
        """Whether level k of a stack with this top searches its actions."""
        handed_down = k == top > 0 and self.landmarks == "direct"
        # above level 0 a top level has no inverse model above it to follow
        return not handed_down and (self.proposal[k] != "inverse" or k == top > 0)
