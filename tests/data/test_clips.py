import numpy as np
import pytest
import torch

from hiwm.data.clips import ClipSampler
from hiwm.data.store import DatasetError, Trajectories

LENGTHS = (9, 3, 14, 7, 1)
SETTINGS = {  # horizon, stride, action_period, reach
    "plain": (2, 1, 1, 3),
    "stride": (2, 3, 1, 4),
    "action period": (3, 1, 2, 2),
    "both": (1, 3, 2, 5),
    "tight": (4, 1, 2, 1),
}


def world(lengths=LENGTHS):
    """state is (episode, time in it), action the row, which is also a second input."""
    lengths = np.array(lengths)
    episode = np.repeat(np.arange(len(lengths)), lengths)
    time = np.concatenate([np.arange(n) for n in lengths])
    row = np.arange(len(time))
    columns = {
        "state": np.stack([episode, time], 1).astype(np.float32),
        "row": row[:, None].astype(np.int64),
        "action": np.stack([row, -row], 1).astype(np.float32),
    }
    return Trajectories("world.h5", columns, lengths, np.concatenate([[0], np.cumsum(lengths)[:-1]]))


def make_sampler(setting, trajectories=None):
    horizon, stride, action_period, reach = setting
    return ClipSampler(
        trajectories or world(),
        inputs=("state", "row"),
        action="action",
        horizon=horizon,
        stride=stride,
        action_period=action_period,
        reach=reach,
    )


@pytest.fixture(params=SETTINGS)
def setting(request):
    return SETTINGS[request.param]


@pytest.fixture
def clip(setting):
    return make_sampler(setting).sample(3000, np.random.default_rng(0))


def starts_of(span, lengths=LENGTHS):
    return {(e, t) for e, n in enumerate(lengths) for t in range(n) if t + span <= n - 1}


def seen(states):
    return {(int(e), int(t)) for e, t in states.tolist()}


def test_shapes_and_types(clip, setting):
    horizon, stride, _, _ = setting
    assert set(clip.inputs) == {"state", "row"}
    assert clip.inputs["state"].shape == (3000, horizon + 1, 2)
    assert clip.inputs["state"].dtype == torch.float32
    assert clip.inputs["row"].dtype == torch.float32
    assert clip.actions.shape == (3000, horizon, stride, 2)
    assert clip.pairs.source["state"].shape == clip.pairs.target["state"].shape == (3000, 2)
    assert clip.pairs.action.shape == (3000, 2)
    assert clip.pairs.steps.shape == (3000,)


def test_windows_stay_in_one_episode_at_the_right_times(clip, setting):
    horizon, stride, action_period, _ = setting
    episode, time = clip.inputs["state"].unbind(-1)
    assert torch.equal(episode, episode[:, :1].expand_as(episode))
    expected = time[:, :1] + stride * action_period * torch.arange(horizon + 1)
    assert torch.equal(time, expected)


def test_actions_lie_between_the_steps(clip, setting):
    _, stride, action_period, _ = setting
    rows = clip.inputs["row"][:, :-1]  # (B, T, 1)
    expected = rows + action_period * torch.arange(stride)
    assert torch.equal(clip.actions[..., 0], expected.float())
    assert torch.equal(clip.actions[..., 1], -expected.float())


def test_every_possible_start_is_drawn_and_no_other(clip, setting):
    horizon, stride, action_period, _ = setting
    possible = starts_of(horizon * stride * action_period)
    assert seen(clip.inputs["state"][:, 0]) == possible
    last = {e: max(t for f, t in possible if f == e) for e, _ in possible}
    ends = seen(clip.inputs["state"][:, -1])
    assert {(e, LENGTHS[e] - 1) for e in last} <= ends  # the last window, up to the episode's last row


def test_starts_are_equally_likely(setting):
    horizon, stride, action_period, _ = setting
    draws = 20_000
    start = make_sampler(setting).sample(draws, np.random.default_rng(1)).inputs["row"][:, 0, 0]
    expected = draws / len(starts_of(horizon * stride * action_period))
    counts = start.unique(return_counts=True)[1]
    assert (counts - expected).abs().max() < 5 * expected**0.5


def test_pairs_stay_in_the_episode_within_reach(clip, setting):
    _, _, action_period, reach = setting
    pairs = clip.pairs
    assert torch.equal(pairs.source["state"][:, 0], pairs.target["state"][:, 0])
    gap = pairs.target["state"][:, 1] - pairs.source["state"][:, 1]
    assert torch.equal(gap, (pairs.steps * action_period).float())
    assert torch.equal(pairs.action[:, 0], pairs.source["row"][:, 0].float())
    longest = min(reach, (max(LENGTHS) - 1) // action_period)
    assert pairs.steps.unique().tolist() == list(range(1, longest + 1))


def test_every_possible_pair_is_drawn(setting):
    _, _, action_period, reach = setting
    pairs = make_sampler(setting).sample(20_000, np.random.default_rng(2)).pairs
    found = {
        (int(e), int(t), int(k)) for (e, t), k in zip(pairs.source["state"].tolist(), pairs.steps.tolist(), strict=True)
    }
    possible = {
        (e, t, k)
        for e, n in enumerate(LENGTHS)
        for t in range(n)
        for k in range(1, reach + 1)
        if t + k * action_period <= n - 1
    }
    assert found == possible


def test_samplers_of_a_split_stay_in_their_episodes(setting):
    training, validation = world((9, 14, 12, 20)).split(0.5)
    for part, allowed in ((training, {0, 1}), (validation, {2, 3})):
        clip = make_sampler(setting, part).sample(500, np.random.default_rng(0))
        assert {e for e, _ in seen(clip.inputs["state"].flatten(0, 1))} == allowed
        assert {e for e, _ in seen(clip.pairs.source["state"])} == allowed


def test_draws_follow_the_generator():
    sampler = make_sampler(SETTINGS["both"])
    first, again, other = (sampler.sample(50, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert torch.equal(first.inputs["row"], again.inputs["row"])
    assert torch.equal(first.pairs.steps, again.pairs.steps)
    assert not torch.equal(first.inputs["row"], other.inputs["row"])


def test_an_episode_of_exactly_one_window_suffices():
    clip = make_sampler((3, 2, 2, 4), world((13,))).sample(5, np.random.default_rng(0))
    assert clip.inputs["state"][:, :, 1].tolist() == [[0, 4, 8, 12]] * 5


def test_too_short_episodes_are_refused_with_the_numbers():
    message = r"world\.h5.* 3 steps of 4 environment steps.* 13 rows.*of 2 has 12"
    with pytest.raises(DatasetError, match=message):
        make_sampler((3, 2, 2, 4), world((12, 5)))


def test_map_reaches_every_tensor():
    clip = make_sampler(SETTINGS["both"]).sample(6, np.random.default_rng(0))
    part = clip.map(lambda x: x[2:4])
    pairs, whole = part.pairs, clip.pairs
    for name in ("state", "row"):
        assert torch.equal(part.inputs[name], clip.inputs[name][2:4])
        assert torch.equal(pairs.source[name], whole.source[name][2:4])
        assert torch.equal(pairs.target[name], whole.target[name][2:4])
    assert torch.equal(part.actions, clip.actions[2:4])
    assert torch.equal(pairs.action, whole.action[2:4])
    assert torch.equal(pairs.steps, whole.steps[2:4])


def test_samples_do_not_share_memory_with_the_store():
    trajectories = world()
    clip = make_sampler(SETTINGS["plain"], trajectories).sample(4, np.random.default_rng(0))
    clip.inputs["state"].zero_()
    assert trajectories.columns["state"].any()
