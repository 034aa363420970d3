"""Each question, in worlds whose answer is known."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
import worlds

from hiwm.analysis.questions import (
    Study,
    abstract_states,
    ask,
    distance,
    kept,
    macro_actions,
    prediction,
    stability,
    subgoals,
    support,
    surprise,
)
from hiwm.analysis.questions.abstract_states import clusters, lasting
from hiwm.analysis.questions.distance import _pairs as pairs
from hiwm.analysis.questions.distance import _ranks
from hiwm.analysis.questions.distance import _spearman as spearman
from hiwm.analysis.questions.distance import _trusted as trusted
from hiwm.analysis.questions.stability import other_seeds
from hiwm.analysis.questions.study import EncodedRows, Finding, chosen_rows
from hiwm.analysis.questions.support import unsupported
from hiwm.analysis.questions.surprise import auroc
from hiwm.envs.rooms.env import FourRoom
from hiwm.levels.landmarks import nearest
from hiwm.sweep import run_name

ROTATION = ((0.6, -0.8), (0.8, 0.6))
ONLY_X = ((1, 0), (0, 0))


@pytest.fixture(scope="module")
def exact():
    return worlds.study(ROTATION, oracle=worlds.OpenField())


def drawn(finding):
    finding.figure.draw_without_rendering()
    return finding.metrics


def test_a_level_keeps_what_its_latent_holds():
    data = worlds.walks(40, square=lambda s: s[:, :1] ** 2, constant=lambda s: np.ones(len(s)), noise=noise)
    found = kept(worlds.study(ONLY_X, dataset=data))
    numbers = drawn(found)
    assert numbers["level0/kept_state_linear"] > 0.99
    assert numbers["level1/kept_state_linear"] < 0.7  # one of its two numbers
    assert numbers["level0/kept_square_linear"] < 0.6 < 0.95 < numbers["level0/kept_square_nonlinear"]
    assert numbers["level0/kept_noise_nonlinear"] < 0.1
    assert not any("constant" in name for name in numbers)
    assert found.sentence.startswith("Level 0 keeps state (R² 1.00, linear 1.00)")
    assert "loses noise" in found.sentence


def noise(state):
    return np.random.default_rng(0).normal(size=len(state)).astype(np.float32)


def test_the_distance_of_true_positions_ranks_all_paths(exact):
    numbers = drawn(distance(exact))
    for k in range(2):
        assert numbers[f"level{k}/distance_spearman"] > 0.999
        assert numbers[f"level{k}/distance_trusted_steps"] >= 100
        assert numbers[f"level{k}/distance_progress"] == 1


def test_a_distance_is_trusted_up_to_the_first_range_that_ranks_badly_or_is_not_measured():
    spans, good = [(1, 3), (3, 10), (10, 30)], [0.9, 0.9, 0.9]
    assert trusted(spans, good) == 30
    assert trusted(spans, [0.9, 0.2, 0.9]) == 3
    assert trusted(spans, [0.9, float("nan"), 0.9]) == 3
    assert trusted([(1, 3), (10, 30)], good[:2]) == 3
    assert trusted([(3, 10)], good[:1]) == 0


def test_correlations_of_no_pairs_are_unknown():
    assert np.isnan(spearman(np.zeros(0), np.zeros(0)))
    assert np.isnan(spearman(np.ones(3), np.arange(3.0)))
    assert spearman(np.arange(3.0), np.array([0.0, 1.0, 5.0])) == pytest.approx(1)


def test_a_level_that_drops_a_direction_ranks_less():
    numbers = drawn(distance(worlds.study(ONLY_X, oracle=worlds.OpenField())))
    assert numbers["level0/distance_spearman"] > 0.999 > 0.95 > numbers["level1/distance_spearman"]
    assert numbers["level0/distance_progress"] == 1 > 0.95 > numbers["level1/distance_progress"]


class FromPlaces(worlds.OpenField):
    """An oracle that reads places and draws what the encoder reads, as rooms do with their images."""

    def shortest_steps(self, start, goal):
        return super().shortest_steps(start["place"], goal["place"])

    def along(self, start, goal, steps):
        return {"state": super().along(start["place"], goal["place"], steps).astype(np.float32)}


def test_paths_are_encoded_from_what_the_oracle_draws(monkeypatch):
    made = worlds.study(oracle=FromPlaces())
    monkeypatch.setattr(made, "observations", lambda rows: {"place": made.dataset.column("state")[rows]})
    assert drawn(distance(made))["level1/distance_progress"] == 1


class TwoFields(worlds.OpenField):
    """No path joins the upper and the lower half."""

    def shortest_steps(self, start, goal):
        return np.where((start[:, 1] > 0) == (goal[:, 1] > 0), super().shortest_steps(start, goal), np.inf)


def test_states_that_no_path_joins_are_not_compared():
    """Distances are as long as the paths within each half, and wrong between them."""
    made = worlds.study(oracle=TwoFields())
    a, b, apart, anywhere = pairs(made)
    upper = made.held_out.states[:, 1] > 0
    assert (upper[a] == upper[b]).all()
    assert np.isfinite(apart).all()
    assert anywhere.sum() == 5000  # as many as if all were joined
    assert drawn(distance(made))["level0/distance_spearman"] > 0.999


def test_maps_differ_where_an_environment_tells_the_walls_of_an_observation():
    made = worlds.study()
    assert not made.maps_differ
    made.environment = FourRoom()
    assert made.maps_differ


def test_without_an_oracle_distance_is_compared_with_time():
    found = distance(worlds.study())
    assert "time apart along episodes" in found.sentence
    assert "no distance where the data wander" in found.caption
    assert 0.3 < drawn(found)["level0/distance_spearman"] < 0.999  # walks turn


def test_what_a_level_ranks_is_said_without_a_contradiction():
    assert (
        _ranks("time", [0.7, 0.2], 3, 0.8) == "ranks states by time up to 3 environment steps (0.80 over all distances)"
    )
    assert _ranks("time", [0.2, 0.2], 0, 0.8).endswith("but ranks near before far over all distances (0.80)")
    assert (
        _ranks("time", [0.2, 0.7], 0, 0.3) == "does not rank the nearest states by time, nor over all distances (0.30)"
    )


def test_exact_predictions_have_no_error(exact):
    numbers = drawn(prediction(exact))
    assert numbers["level0/open_loop_1"] < 1e-6
    assert numbers["level1/open_loop_4"] < 1e-6


def test_wrong_predictions_have_an_error():
    wrong = worlds.study()
    wrong.hierarchy.levels[1].predictor.step_size = 0.0  # predicts no change
    numbers = drawn(prediction(wrong))
    assert numbers["level1/open_loop_1"] == pytest.approx(1)
    assert numbers["level0/open_loop_1"] < 1e-6


def test_the_atlas_says_which_dimension_moves_what(exact):
    found = macro_actions(exact)
    numbers = drawn(found)
    assert "Level 0: dimension 0 moves along x and dimension 1 moves along y" in found.sentence
    assert numbers["level0/macro0_consistency"] > 0.8
    assert numbers["level1/macro0_displacement"] > 2 * numbers["level0/macro0_displacement"]


def test_a_dimension_whose_meaning_depends_on_the_state_is_not_consistent():
    twisted = worlds.study()
    predictor = twisted.hierarchy.levels[0].predictor
    predictor.forward = lambda latent, action: latent + 0.5 * action * latent.sign()
    assert macro_actions(twisted).metrics["level0/macro0_consistency"] < 0.6


def test_clusters_are_found_and_timed():
    centres = np.array([[0, 0], [9, 0], [0, 9]])
    label = np.repeat([0, 1, 2, 0, 1], [10, 20, 30, 5, 7])
    points = centres[label] + np.random.default_rng(0).normal(0, 0.1, (len(label), 2))
    found = clusters(points.astype(np.float32), 3)
    assert len(set(zip(found.tolist(), label.tolist(), strict=True))) == 3
    rows = EncodedRows(np.arange(72), np.arange(72)[::-1], points, [], [])
    assert lasting(rows, found).tolist() == [20, 30, 5]  # not those at the ends
    assert lasting(rows, np.zeros(72)).tolist() == [72]


def test_abstract_states_of_exact_levels(exact):
    numbers = drawn(abstract_states(exact))
    assert numbers["level0/abstract_states"] == numbers["level1/abstract_states"] == 12
    assert 3 < numbers["level0/abstract_state_steps"] < 200


def test_outcomes_of_subgoals_are_counted():
    level = {"reached": 30, "unreached": 9, "unreachable": 1, "steps": 12.0, "distance_left": 0.25}
    results = {"agents": {"hierarchical": {"subgoals": {"level1": level}}}}
    found = subgoals(worlds.study(results=results))
    assert found.sentence == "Subgoals that were reached: level 1: 75 % of 40, on average after 12 environment steps."
    assert drawn(found)["level1/subgoals_unreachable"] == pytest.approx(1 / 40)
    assert subgoals(worlds.study(results={"agents": {"hierarchical": {}}})) is None
    assert subgoals(worlds.study()) is None


def test_steps_that_no_episode_makes_are_impossible():
    rng = np.random.default_rng(0)
    start = rng.uniform(size=(4000, 2))
    known = torch.from_numpy(np.concatenate([start, start + np.array([0.1, 0])], 1))
    steps = torch.tensor([[0.5, 0.5, 0.6, 0.5], [0.5, 0.5, 0.4, 0.5], [0.5, 0.5, 2.0, 0.5]], dtype=torch.double)
    assert unsupported(steps, known[:2000], known[2000:]).tolist() == [False, True, True]


def test_steps_through_a_wall_are_impossible_where_data_are_sparser_than_steps_are_long():
    rng = np.random.default_rng(0)

    def corridors(number):  # along x, at y = 0 and 0.05, with a wall between them
        start = np.stack([rng.uniform(0, 5, number), 0.05 * rng.integers(0, 2, number)], 1)
        return start, start + [[0.05, 0]] * rng.choice([-1, 1], (number, 1))

    known, held_out = (torch.from_numpy(np.concatenate(corridors(number), 1)) for number in (200, 2000))
    start = corridors(500)[0]
    through = torch.from_numpy(np.concatenate([start, start + [0, 0.05] * (1 - 40 * start[:, 1:])], 1))
    assert set(through[:, 3].unique().round(decimals=3).tolist()) == {0.0, 0.05}  # the other corridor
    assert (nearest(through, known)[0] > np.quantile(nearest(held_out, known)[0], 0.99)).float().mean() < 0.2
    assert unsupported(through, known, held_out).mean() > 0.8
    assert unsupported(held_out, known, held_out).mean() < 0.02


def test_plans_of_an_exact_model_in_an_open_field_stay_on_the_data(exact):
    numbers = drawn(support(exact))
    assert numbers["level0/impossible_first_step"] < 0.4  # where no walk led
    cheat = worlds.study(oracle=worlds.OpenField())
    cheat.hierarchy.levels[1].predictor.forward = lambda latent, action: latent + 30  # believes in a giant step
    assert support(cheat).metrics["level1/impossible_first_step"] > 0.9


def test_exact_levels_are_surprised_by_every_teleport(exact):
    numbers = drawn(surprise(exact))
    assert [numbers[f"level{k}/surprise_auroc_teleport"] for k in range(2)] == pytest.approx([1, 1])
    blind = worlds.study(((0, 0), (0, 0)), oracle=worlds.OpenField())
    assert surprise(blind).metrics["level1/surprise_auroc_teleport"] == pytest.approx(0.5, abs=0.01)


def test_the_area_under_the_curve():
    assert auroc(np.array([1.0, 2, 3]), np.array([4.0, 5])) == 1
    assert auroc(np.array([1.0, 1]), np.array([1.0, 1])) == 0.5
    assert auroc(np.array([4.0, 5]), np.array([1.0])) == 0


def test_a_single_run_has_no_other_seeds(exact):
    assert stability(exact) is None


def test_seeds_beside_a_run_are_compared(tiny_run, tmp_path):
    for home in ("tiny", "tiny/seed1", "tiny/seed2", "tiny/other"):
        shutil.copytree(tiny_run.folder / "hierarchy", tmp_path / home / "hierarchy")
    found = Study.of(tmp_path / "tiny" / "seed1", allow=["tiny"])
    finding = stability(found)
    assert "Linear CKA between 3 seeds" in finding.sentence  # not the run that is no seed
    assert drawn(finding) == pytest.approx({f"level{k}/seeds_cka": 1.0 for k in range(3)})


def test_seeds_of_a_sweep_are_compared_with_those_of_the_same_values(tiny_run, tmp_path):
    names = [run_name({"a.b": str(value), "seed": str(seed)}) for value in (1, 2) for seed in (0, 1)]
    for name in ("", *names):
        shutil.copytree(tiny_run.folder / "hierarchy", tmp_path / "tiny" / name / "hierarchy")
    found = other_seeds(Study.of(tmp_path / "tiny" / "a.b=2,seed1", allow=["tiny"]))
    assert [*found] == ["seed0"]


def test_one_level_without_an_environment_answers_what_it_can():
    found = ask(worlds.study(levels=1, dataset=worlds.walks(4, 30)))
    assert {"kept", "distance", "prediction", "surprise", "support"} <= set(found)
    for finding in found.values():
        drawn(finding)
        assert not any(name.startswith("level1") for name in finding.metrics)


@pytest.mark.parametrize(("episodes", "steps"), [(2, 3), (2, 1), (3, 5)])
def test_data_that_are_too_short_for_a_level_crash_nothing(episodes, steps):
    for finding in ask(worlds.study(dataset=worlds.walks(episodes, steps))).values():
        drawn(finding)


def test_states_that_never_change_crash_nothing():
    data = worlds.walks(6, 60)
    data.columns["state"][:] = 0.5
    data.columns["action"][:] = 0
    for finding in ask(worlds.study(dataset=data, oracle=worlds.OpenField())).values():
        drawn(finding)
        assert all(np.isfinite(value) for value in finding.numbers.values())


def test_images_as_state_have_no_map():
    data = worlds.walks(6, 60, pixels=lambda s: np.zeros((len(s), 8, 8, 3), np.uint8))
    made = worlds.study(dataset=data)
    made.state = ["pixels"]
    found = ask(made)
    assert not made.on_map
    assert "macro_actions" not in found
    for finding in found.values():
        drawn(finding)


def test_only_finite_numbers_are_recorded():
    assert Finding("", "", {"a": 1.0, "b": float("nan"), "c": float("inf")}).numbers == {"a": 1.0}


def test_long_episodes_are_cut_and_short_ones_are_not():
    rows, left = chosen_rows(worlds.walks(20, 50), 500)
    assert len(rows) == 500  # ten whole episodes
    assert left[:50].tolist() == [*range(49, -1, -1)]
    rows, left = chosen_rows(worlds.walks(20, 500), 800)
    assert len(rows) == 800  # a hundred rows of eight
    assert (left[rows % 500 == 0] == 99).all()
    rows, _ = chosen_rows(worlds.walks(2, 10), 1000)
    assert rows.tolist() == [*range(20)]
