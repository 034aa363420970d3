"""How many threads a command takes."""

import pytest
import torch

from hiwm.config import load_config
from hiwm.experiment import session
from hiwm.experiment.session import start


@pytest.mark.parametrize(
    ("overrides", "given", "expected"),
    [
        (["experiment=pointmaze"], None, 1),
        (["experiment=fourroom"], None, 2),  # images
        (["experiment=pointmaze", "threads=2"], None, 2),
        (["experiment=pointmaze"], "3", 3),
        (["experiment=pointmaze", "levels.level0.encoder=null"], None, 2),
        (["experiment=pointmaze", "levels.level0=null"], None, 2),
    ],
)
def test_small_networks_take_one_thread_unless_the_user_says_otherwise(overrides, given, expected, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if given is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    before = torch.get_num_threads()
    monkeypatch.setattr(session, "THREADS", 2)
    torch.set_num_threads(3)
    try:
        start(load_config([*overrides, "device=cpu"]))
        assert torch.get_num_threads() == expected
        if given is None:
            start(load_config(["experiment=fourroom", "device=cpu"]))  # nothing is left of the run before
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
