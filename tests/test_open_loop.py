import torch

from hiwm import rollout
from hiwm.levels.predictors.mlp import ResidualMLPPredictor
from hiwm.rollout import Rollout, follow, in_blocks


def test_actions_are_chosen_where_the_last_one_led():
    predictor = ResidualMLPPredictor(dim_latent=3, dim_action=3, width=8, depth=1)
    start = torch.randn(5, 3)
    way = follow(predictor, start, predictor.start(start), lambda h, latent: h * latent, 3)
    assert torch.equal(way.actions[:, 0], torch.zeros(5, 3))
    assert torch.equal(way.actions[:, 2], 2 * way.latents[:, 1])
    assert torch.equal(way.latents, predictor.rollout(start, way.actions))
    assert way.variance is None


def test_blocks_are_answered_as_all_rows_together(monkeypatch):
    monkeypatch.setattr(rollout, "BLOCK", 4)
    sizes = []

    def run(latent, carried, chosen):
        sizes.append(len(chosen))
        (first, second), number = carried
        latents = latent.unsqueeze(1) + number * (first + second).unsqueeze(1) + chosen
        return Rollout(-chosen, latents, latents.square())

    latent, first, second, chosen = (torch.randn(10, *shape) for shape in ((2,), (2,), (2,), (3, 2)))
    carried = ((first, second), 7)
    parts = in_blocks(run, latent, carried, chosen)
    assert sizes == [4, 4, 2]
    whole = run(latent, carried, chosen)
    for name in ("actions", "latents", "variance"):
        assert torch.equal(getattr(parts, name), getattr(whole, name)), name
    assert in_blocks(lambda *rows: Rollout(rows[2], rows[2], None), latent, carried, chosen).variance is None
