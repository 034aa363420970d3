import torch

from hiwm import open_loop
from hiwm.levels.predictors.mlp import ResidualMLPPredictor
from hiwm.open_loop import in_blocks, unroll


def test_actions_are_chosen_where_the_last_one_led():
    predictor = ResidualMLPPredictor(dim_latent=3, dim_action=3, width=8, depth=1)
    start = torch.randn(5, 3)
    actions, latents, variance = unroll(predictor, start, predictor.start(start), lambda h, latent: h * latent, 3)
    assert torch.equal(actions[:, 0], torch.zeros(5, 3))
    assert torch.equal(actions[:, 2], 2 * latents[:, 1])
    assert torch.equal(latents, predictor.rollout(start, actions))
    assert variance is None


def test_blocks_are_predicted_as_all_rows_together(monkeypatch):
    monkeypatch.setattr(open_loop, "BLOCK", 4)
    sizes = []

    def run(latent, state, chosen):
        sizes.append(len(chosen))
        (first, second), number = state
        latents = latent.unsqueeze(1) + number * (first + second).unsqueeze(1) + chosen
        return -chosen, latents, latents.square()

    latent, first, second, chosen = (torch.randn(10, *shape) for shape in ((2,), (2,), (2,), (3, 2)))
    state = ((first, second), 7)
    parts = in_blocks(run, latent, state, chosen)
    assert sizes == [4, 4, 2]
    whole = run(latent, state, chosen)
    for part, other in zip(parts, whole, strict=True):
        assert torch.equal(part, other)
    assert in_blocks(lambda *rows: (rows[2], rows[2], None), latent, state, chosen)[2] is None
