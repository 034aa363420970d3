"""The losses against collapse on latents whose answer is known."""

import math
from dataclasses import replace

import pytest
import torch
from scipy.spatial import KDTree

from hiwm.levels.batchnorm import BatchNorm
from hiwm.levels.landmarks import nearest, tree_if_faster
from hiwm.levels.output import LevelOutput
from hiwm.levels.regularizers.barlow_twins import BarlowTwins
from hiwm.levels.regularizers.graph_distance import GraphDistance
from hiwm.levels.regularizers.info_nce import InfoNCE
from hiwm.levels.regularizers.inverse_dynamics import InverseDynamics
from hiwm.levels.regularizers.laplacian import Laplacian
from hiwm.levels.regularizers.pixels import PixelPrediction
from hiwm.levels.regularizers.step_distance import StepDistance
from hiwm.levels.regularizers.straightening import TemporalStraightening
from hiwm.levels.regularizers.temporal_distance import TemporalDistance
from hiwm.levels.regularizers.temporal_similarity import TemporalSimilarity
from hiwm.levels.regularizers.vicreg import VICReg


def features(latent, predicted=None, chunk=None):
    """With the latents as targets, predicted exactly unless told otherwise."""
    target = latent[:, 1:]
    chunk = torch.zeros(*target.shape[:2], 2) if chunk is None else chunk
    return LevelOutput({"latent": latent}, latent, chunk, target if predicted is None else predicted, target, chunk)


def value(regularizer, *arguments, **named):
    return regularizer(features(*arguments, **named), torch.Generator()).item()


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_vicreg_of_known_covariances():
    rows = draw(20_000, 1, 2)
    none = VICReg(covariance=1.0)
    assert value(none, rows) == pytest.approx(0, abs=0.02)
    assert value(none, rows + 3) == pytest.approx(0, abs=0.02)  # moments are about the mean
    # half the deviation: a hinge of one half; no deviation: one
    assert value(none, rows * 0.5) == pytest.approx(0.5, abs=0.02)
    assert value(none, rows * 0) == pytest.approx(1 - math.sqrt(1e-4))
    # both dimensions the same: covariances of 1 twice, over two dimensions
    same = rows[..., :1].expand(-1, -1, 2)
    assert value(none, same) == pytest.approx(1.0, abs=0.05)
    assert value(VICReg(covariance=0.1), same) == pytest.approx(0.1, abs=0.02)


def test_barlow_twins_of_known_correlations():
    latent = draw(20_000, 2, 3)
    regularizer = BarlowTwins(off_diagonal=0.5)
    assert value(regularizer, latent) == pytest.approx(0, abs=1e-3)
    assert value(regularizer, latent * 7 + 3) == pytest.approx(0, abs=1e-3)  # any scale
    independent = draw(20_000, 1, 3, seed=1)
    assert value(regularizer, latent, independent) == pytest.approx(1, abs=0.05)
    opposite = BarlowTwins(off_diagonal=0.0)
    assert value(opposite, latent, -latent[:, 1:]) == pytest.approx(4, abs=1e-2)  # (1 - -1)^2
    # both views one-dimensional: every off-diagonal correlation is 1, six of them over three dimensions
    assert value(regularizer, latent[..., :1].expand(-1, -1, 3)) == pytest.approx(0.5 * 6 / 3, abs=1e-2)


def test_info_nce_is_zero_where_windows_are_far_apart_and_log_n_where_they_are_equal():
    far = 100 * torch.arange(8.0).reshape(8, 1, 1).expand(8, 3, 2)
    assert value(InfoNCE(), far) == pytest.approx(0, abs=1e-6)
    assert value(InfoNCE(), far * 0) == pytest.approx(math.log(8))
    # two windows, squared distances 0 and 8 over 2 dimensions and a temperature of 2
    two = torch.tensor([[[0.0, 0.0]] * 2, [[2.0, 2.0]] * 2])
    assert value(InfoNCE(temperature=2.0), two) == pytest.approx(math.log(1 + math.exp(-2)))
    wrong = far[:, 1:].roll(1, 0)
    assert value(InfoNCE(), far, wrong) > 100


def test_temporal_similarity_is_the_mean_square_step():
    latent = torch.tensor([[[0.0, 0.0], [3.0, 4.0], [3.0, 4.0]]])
    assert value(TemporalSimilarity(), latent) == pytest.approx((9 + 16) / 4)


@pytest.mark.parametrize(("turn", "expected"), [(0, 0.0), (90, 1.0), (180, 2.0)])
def test_straightening_measures_turns(turn, expected):
    angle = math.radians(turn)
    latent = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [1 + 2 * math.cos(angle), 2 * math.sin(angle)]]])
    assert value(TemporalStraightening(), latent) == pytest.approx(expected, abs=1e-5)


def test_inverse_dynamics_learns_actions_that_the_latents_tell():
    latent = draw(256, 3, 2)
    chunk = latent[:, 1:] - latent[:, :-1]
    torch.manual_seed(0)
    regularizer = InverseDynamics(dim_latent=2, dim_chunk=2, width=64, depth=1)
    optimizer = torch.optim.Adam(regularizer.parameters(), lr=1e-2)
    first = value(regularizer, latent, chunk=chunk)
    for _ in range(200):
        optimizer.zero_grad()
        regularizer(features(latent, chunk=chunk), torch.Generator()).backward()
        optimizer.step()
    assert value(regularizer, latent, chunk=chunk) < 0.05 * first


def test_temporal_distance_of_known_steps():
    """With the next state as the only goal, the target is one step."""
    only_next = TemporalDistance(expectile=0.9, goals=1)
    for length, weight in ((3.0, 0.9), (0.5, 0.1), (1.0, 0.9)):
        rows = torch.tensor([[[0.0], [length]]])
        assert value(only_next, rows) == pytest.approx(weight * (length - 1) ** 2, abs=1e-3)


def test_temporal_distance_of_known_goals():
    """Two windows of one step; the goals are the states they end in, whose latents the target encoder has elsewhere."""
    rows, slow = torch.tensor([[[0.0], [1.0]], [[10.0], [12.0]]]), torch.tensor([[[1.5]], [[11.0]]])
    output = LevelOutput({"latent": rows}, rows, slow, slow, slow, slow)

    def expected(i, j):
        left = abs(slow[i, 0, 0] - slow[j, 0, 0])
        error = 1 + 0.5 * left - abs(rows[i, 0, 0] - rows[j, 1, 0])
        return ((0.7 if error < 0 else 0.3) * error**2).item()

    only_next = TemporalDistance(discount=0.5, expectile=0.7, goals=1)
    assert only_next(output, torch.Generator()).item() == pytest.approx((expected(0, 0) + expected(1, 1)) / 2)
    any_goal = TemporalDistance(discount=0.5, expectile=0.7, goals=8000)
    mean = sum(expected(i, j) for i in range(2) for j in range(2)) / 4
    assert any_goal(output, torch.Generator()).item() == pytest.approx(mean, rel=0.02)


def test_step_distance_of_known_latents():
    """Two states, a step apart: half of the random pairs are one state twice."""
    rows, same = torch.tensor([[[0.0], [3.0]]]), math.log(0.1)
    spread = -(math.log(3.1) + same) / 2
    assert value(StepDistance(strictness=0.0, pairs=4000), rows) == pytest.approx(spread, abs=0.05)
    assert value(StepDistance(strictness=10.0, pairs=4000), rows) == pytest.approx(10 * 4 + spread, abs=0.05)
    short = -(math.log(0.6) + same) / 2
    assert value(StepDistance(strictness=10.0, pairs=4000), rows / 6) == pytest.approx(short, abs=0.05)


def test_laplacian_coordinates_of_a_path():
    """A random walk on 12 states in a row: cosines of rising frequency, whose variance is inverse to the eigenvalue."""
    states, dim, steps = 12, 3, 400
    torch.manual_seed(0)
    latents = torch.nn.Parameter(0.1 * torch.randn(states, dim))
    optimizer = torch.optim.Adam([latents], 0.05)
    regularizer = Laplacian()
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 0.05 * (1 - step / steps)
        start = torch.randint(states, (512, 1))
        end = (start + 2 * torch.randint(2, (512, 1)) - 1).clamp(0, states - 1)
        optimizer.zero_grad()
        regularizer(features(latents[torch.cat([start, end], 1)]), torch.Generator()).backward()
        optimizer.step()
    found = latents.detach() - latents.detach().mean(0)
    walk = 0.5 * (torch.eye(states).roll(1, 0).tril() + torch.eye(states).roll(-1, 0).triu())
    walk[0, 0] = walk[-1, -1] = 0.5
    eigenvalues, functions = torch.linalg.eigh(torch.eye(states) - walk)
    for j in range(dim):
        alike = torch.cosine_similarity(found[:, j], functions[:, j + 1], 0).abs()
        assert alike > 0.95
        # each dimension moves by 1 / dim in mean square, and a function with unit variance by 2 * eigenvalue
        assert found[:, j].square().mean() == pytest.approx(1 / (2 * dim * eigenvalues[j + 1].item()), rel=0.1)
    squared = (found.unsqueeze(1) - found).square().sum(-1)[0]
    assert (squared[1:] > squared[:-1]).all()  # farther along the row is farther


def test_laplacian_of_known_latents():
    """Four windows of two steps in two dimensions, every term by itself."""
    latent = draw(4, 3, 2) + torch.tensor([0.5, 0.0])
    barrier, steps, dim = 3.0, 2, 2
    first, last = latent[:, 0], latent[:, 2]
    ends = torch.cat([first, last])
    expected = 0.0
    scales = [
        math.sqrt(dim / steps * (last - first)[:, j].square().mean() / ends[:, j].square().mean()) for j in range(dim)
    ]
    for j, scale in enumerate(scales):
        eigenvalue = (last - first)[:, j].square().mean() / 2 / ends[:, j].square().mean()
        terms = 0.5 * (scale * (last - first)[:, j]).square().mean()
        halves = [torch.cat([first[half::2], last[half::2]]) for half in (0, 1)]
        for k in range(j + 1):
            wanted = 1 + eigenvalue / barrier if j == k else 0.0
            errors = [scale * scales[k] * (rows[:, j] * rows[:, k]).mean() - wanted for rows in halves]
            terms += barrier * errors[0] * errors[1]
        terms += barrier * scale**2 * halves[0][:, j].mean() * halves[1][:, j].mean()
        expected += (terms / scale).item()
    assert value(Laplacian(barrier=barrier), latent) == pytest.approx(expected, rel=1e-4)


def test_earlier_laplacian_coordinates_do_not_depend_on_later_ones():
    """The correlation of two dimensions changes the second alone."""
    latent = draw(6, 2, 2).requires_grad_()
    other = torch.cat([latent.detach()[..., :1], draw(6, 2, 1, seed=1)], -1).requires_grad_()
    for rows in (latent, other):
        Laplacian()(features(rows), torch.Generator()).backward()
    assert latent.grad is not None
    assert other.grad is not None
    torch.testing.assert_close(latent.grad[..., 0], other.grad[..., 0])
    assert not torch.allclose(latent.grad[..., 1], other.grad[..., 1])


def test_graph_distance_of_known_steps():
    """States 0, 1, 2, 3 in a row, and two that no step joins to them: |z_i - z_j| is compared with the steps between them."""
    below = torch.tensor([[0.0, 1.0, 2.0, 3.0], [8.0, 9.0, 8.0, 9.0]]).unsqueeze(-1)
    regularizer = GraphDistance(inputs={"latent": (1,)}, landmarks=10, strictness=2.0, pairs=4000)
    regularizer.fit({"latent": below})
    row, apart = below[:1], below[1:]
    output = LevelOutput({"latent": row}, row, row[:, 1:], row[:, 1:], row[:, 1:], row[:, 1:])
    generator = torch.Generator()
    assert regularizer(output, generator).item() == pytest.approx(0, abs=1e-6)
    far = replace(output, latent=2 * row)  # each step twice as long as it may be; the pairs are n steps too far
    expected = 2.0 + sum(abs(i - j) ** 2 / (abs(i - j) + 1) for i in range(4) for j in range(4)) / 16
    assert regularizer(far, generator).item() == pytest.approx(expected, abs=0.05)
    both = replace(output, inputs={"latent": torch.cat([row, apart])}, latent=torch.cat([row, 100 + apart]))
    assert regularizer(both, generator).item() == pytest.approx(0, abs=1e-6)  # no number of steps lies between them
    # pairs that no path joins do not dilute the mean: states 8 and 9 are a step apart, and two in the latents
    both = replace(both, latent=2 * both.latent)
    first, second = [abs(i - j) for i in range(4) for j in range(4)], 4 * [0, 1, 1, 0]  # each window has four states
    # 8 and 9 occur twice, so that theirs weigh half as much
    expected = 2.0 + (2 * sum(n**2 / (n + 1) for n in first) + sum(n**2 / (n + 1) for n in second)) / (3 * 16)
    assert regularizer(both, generator).item() == pytest.approx(expected, abs=0.05)


def test_graph_distance_weighs_rare_places_like_frequent_ones():
    """Of places 0 and 1, a step apart, the data are at 0 four times as often as at 1, and ninety times as often as at 2."""
    below = torch.tensor([72 * [0.0] + 9 * [0.0, 1.0] + 9 * [1.0] + [2.0]]).unsqueeze(-1)
    regularizer = GraphDistance(inputs={"latent": (1,)}, landmarks=3, strictness=0.0, pairs=20_000)
    regularizer.fit({"latent": below})
    weights = dict(zip(regularizer.landmarks.flatten().tolist(), regularizer.weight.tolist(), strict=True))
    mean = below.numel() / 3
    assert weights == pytest.approx({0.0: mean / 81, 1.0: mean / 18, 2.0: 10.0})
    here = torch.tensor([[0.0, 1.0, 2.0]]).unsqueeze(-1)
    latent = torch.tensor([[0.0, 1.0, 4.0]]).unsqueeze(-1)  # 2 is two steps too far from the others
    output = LevelOutput({"latent": here}, latent, latent[:, 1:], latent[:, 1:], latent[:, 1:], latent[:, 1:])
    of_state = {0.0: (0 + 0 + 4 / 3) / 3, 1.0: (0 + 0 + 4 / 2) / 3, 2.0: (4 / 3 + 4 / 2 + 0) / 3}
    expected = sum(weights[state] * error for state, error in of_state.items()) / sum(weights.values())
    assert regularizer(output, torch.Generator()).item() == pytest.approx(expected, abs=0.01)


def test_graph_distance_weighs_the_states_that_there_are():
    """Landmarks that stand for no state, because there are fewer states than landmarks, count as nothing."""
    below = torch.tensor([[*30 * [0.0], *29 * [1.0], 2.0]]).unsqueeze(-1)
    regularizer = GraphDistance(inputs={"latent": (1,)}, landmarks=1000)
    regularizer.fit({"latent": below})
    weight = {below: regularizer.weight[regularizer.landmarks.flatten() == below].tolist()[0] for below in (0.0, 2.0)}
    assert weight == pytest.approx({0.0: 20 / 30, 2.0: 10.0})


def test_graph_distance_counts_steps_in_both_directions():
    """The data lead from 0 and from 3 to 2, and never back."""
    below = torch.tensor([[0.0, 1.0, 2.0], [3.0, 2.0, 2.0]]).unsqueeze(-1)
    regularizer = GraphDistance(inputs={"latent": (1,)}, landmarks=4, strictness=0.0, pairs=4000)
    regularizer.fit({"latent": below})
    ends = torch.tensor([[[0.0], [3.0]]])
    output = LevelOutput({"latent": ends}, 2 * ends, ends[:, 1:], ends[:, 1:], ends[:, 1:], ends[:, 1:])
    assert regularizer(output, torch.Generator()).item() == pytest.approx((6 - 3) ** 2 / (3 + 1) / 2, abs=0.05)


def test_graph_distance_counts_long_paths():
    row = torch.arange(300.0).view(1, -1, 1)
    regularizer = GraphDistance(inputs={"latent": (1,)}, landmarks=300, pairs=1000)
    regularizer.fit({"latent": row})
    output = LevelOutput({"latent": row}, row, row[:, 1:], row[:, 1:], row[:, 1:], row[:, 1:])
    assert regularizer(output, torch.Generator()).item() == pytest.approx(0, abs=1e-6)


def test_a_tree_of_landmarks_finds_what_a_full_comparison_finds():
    known, points = draw(2000, 3), draw(50, 3, seed=1)
    apart, at = nearest(points, known)
    found = nearest(points, known, KDTree(known.numpy()))
    assert torch.equal(found[1], at)
    torch.testing.assert_close(found[0], apart, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("varying", "tree"), [(2, True), (20, False)])
def test_a_tree_is_used_where_few_dimensions_vary(varying, tree):
    known = torch.cat([draw(500, varying), 0.01 * draw(500, 20, seed=1)], 1)
    assert (tree_if_faster(known) is not None) == tree


@pytest.mark.parametrize(
    "known", [torch.zeros(1, 3), torch.zeros(50, 3), torch.zeros(50, 300).index_fill(1, torch.tensor(0), 1)]
)
def test_landmarks_that_are_all_one_point_need_no_tree(known):
    assert tree_if_faster(known) is None


def test_graph_distance_leaves_its_landmarks_out_of_the_saved_level():
    regularizer = GraphDistance(inputs={"latent": (1,)}, landmarks=4)
    regularizer.fit({"latent": torch.tensor([[0.0, 1.0, 2.0]]).unsqueeze(-1)})
    assert not regularizer.state_dict()
    assert regularizer.to("meta").steps.is_meta  # but they move with it


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GraphDistance(inputs={"latent": (2,)}, windows=0), "windows is 0; expected at least 1"),
        (lambda: GraphDistance(inputs={"latent": (2,)}, landmarks=0), "landmarks is 0; expected at least 1"),
        (lambda: StepDistance(pairs=0), "pairs is 0; expected at least 1"),
        (lambda: StepDistance(strictness=math.nan), r"strictness is nan; expected a number in \[0, inf\)"),
        (lambda: TemporalDistance(goals=0), "goals is 0; expected at least 1"),
        (lambda: TemporalDistance(discount=1.5), r"discount is 1.5; expected a number in \[0, 1\]"),
        (lambda: TemporalDistance(expectile=1.0), r"expectile is 1.0; expected a number in \(0, 1\)"),
    ],
)
def test_an_argument_out_of_range_is_refused_by_name(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_graph_distance_is_refused_where_no_level_is_below():
    with pytest.raises(ValueError, match="reads state; expected the latent of a level below"):
        GraphDistance(inputs={"state": (2,)})


def star(branches=5, length=3):
    """Number of steps between the places of a star, (N, N): a hub with branches, the tree that no Euclidean distance fits."""
    places = [(0, 0), *((branch, i) for branch in range(branches) for i in range(1, length + 1))]
    return torch.tensor([[abs(i - j) if a == b or not i * j else i + j for b, j in places] for a, i in places])


@pytest.mark.parametrize("kind", [TemporalDistance, StepDistance, GraphDistance])
def test_the_distance_becomes_the_number_of_steps_of_a_walk(kind):
    """A random walk over a star, whatever its places look like: their distance becomes the number of steps."""
    generator, true = torch.Generator().manual_seed(0), star()
    walks, look = [torch.zeros(64, dtype=torch.long)], draw(len(true), 3, seed=1)
    for _ in range(200):
        walks.append(torch.multinomial((true[walks[-1]] == 1).float(), 1, generator=generator).squeeze(1))
    places = torch.stack(walks, 1)
    regularizer = GraphDistance(inputs={"latent": (3,)}, landmarks=20) if kind is GraphDistance else kind()
    regularizer.fit({"latent": look[places]})
    embedding = torch.nn.Parameter(draw(len(true), 8) * 0.1)
    slow = embedding.detach().clone()
    optimizer = torch.optim.Adam([embedding], lr=1e-2)
    for i in range(1500):
        seen = places[:, i % 190 :][:, :5]
        latent = embedding[seen]
        output = LevelOutput(
            {"latent": look[seen]}, latent, latent[:, 1:], latent[:, 1:], slow[seen[:, 1:]], latent[:, 1:]
        )
        optimizer.zero_grad()
        regularizer(output, generator).backward()
        optimizer.step()
        slow.lerp_(embedding.detach(), 0.05)
    found, true = torch.cdist(slow, slow, p=1).flatten(), true.flatten()
    assert torch.corrcoef(torch.stack([found, true.float()]))[0, 1] > 0.98
    assert (
        0.9 < found[true == 1].mean() < (1.8 if kind is TemporalDistance else 1.1)
    )  # temporal differences average over a walk


def test_batch_norm_is_torchs():
    mine, theirs = BatchNorm(3), torch.nn.BatchNorm1d(3)
    rows = draw(50, 3) * 4 + 2
    torch.testing.assert_close(mine(rows), theirs(rows))
    torch.testing.assert_close(mine.running_mean, theirs.running_mean)
    torch.testing.assert_close(mine.running_var, theirs.running_var, rtol=0.05, atol=0)  # torch's is unbiased
    mine.running_var.copy_(theirs.running_var)
    torch.testing.assert_close(mine.eval()(rows), theirs.eval()(rows))


def test_pixels_of_a_decoder_that_is_known():
    """The first latent and the predictions are decoded, nothing else; sizes that do not halve are cut."""
    regularizer = PixelPrediction(inputs={"pixels": (9, 12, 3), "joints": (2,)}, dim_latent=4, width=8)
    latent, predicted, frames = draw(5, 3, 4), draw(5, 2, 4, seed=1), draw(5, 3, 9, 12, 3)
    seen = LevelOutput({"pixels": frames}, latent, latent[:, 1:], predicted, latent[:, 1:], latent[:, 1:])
    assert regularizer.decode(latent).shape == frames.shape
    value = regularizer(seen, torch.Generator())
    decoded = [regularizer.decode(z) for z in (latent[:, 0], predicted[:, 0], predicted[:, 1])]
    assert value.item() == pytest.approx((torch.stack(decoded, 1) - frames).square().mean().item(), rel=1e-3)
    torch.nn.init.zeros_(regularizer.decoder[-1].weight)
    torch.nn.init.ones_(regularizer.decoder[-1].bias)
    assert regularizer(seen, torch.Generator()).item() == pytest.approx((frames - 1).square().mean().item(), rel=1e-4)
