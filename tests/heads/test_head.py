from __future__ import annotations

import copy

import pytest
import torch
from safetensors.torch import save_file

from hiwm.heads.action_bank import ActionBank
from hiwm.heads.action_prior import ActionPrior
from hiwm.heads.calibration import Calibration
from hiwm.heads.heads import KINDS, Heads, head_of
from hiwm.heads.state_readout import StateReadout
from hiwm.heads.text import TextHead
from hiwm.heads.value import Value


def every_head():
    """One of each class, with the name of its field in `Heads`; no tensor holds what a new head would hold."""
    torch.manual_seed(0)
    heads = {
        "action_banks": ActionBank(
            low=torch.rand(2),
            high=torch.rand(2),
            start=torch.rand(5, 3),
            actions=torch.rand(5, 4, 2),
            steps=torch.arange(5),
        ),
        "readouts": StateReadout(dim_latent=3, dim=2, width=4, depth=1),
        "texts": TextHead(dim_latent=3, dim=5, width=4, depth=2),
        "calibrations": Calibration(
            scale=torch.rand(2),
            radius=torch.rand(2, 4),
            ratio=torch.rand(2),
            spearman=torch.rand(2),
            raw=torch.rand(2, 4),
            scaled=torch.rand(2, 4),
            conformal=torch.rand(2, 4),
        ),
        "action_priors": ActionPrior(dim_latent=3, dim_action=2, width=4, depth=1),
        "values": Value(dim_latent=3, dim=2, width=4, depth=3, discount=0.8),
    }
    for head in heads.values():
        for tensor in head.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand_like(tensor))
    return heads


HEADS = every_head()


def same(one, other):
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_every_class_is_here():
    assert HEADS.keys() == KINDS.keys()
    assert all(type(HEADS[field]) is kind for field, (kind, _) in KINDS.items())


@pytest.mark.parametrize("field", KINDS)
def test_a_saved_head_is_loaded_whole_and_frozen(field, tmp_path):
    head = HEADS[field].train()
    head.save(tmp_path / "head.safetensors")
    loaded = type(head).load(tmp_path / "head.safetensors")
    assert type(loaded) is type(head)
    assert same(loaded, head)
    assert loaded.arguments == head.arguments
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    loaded.save(tmp_path / "again.safetensors")
    assert same(type(head).load(tmp_path / "again.safetensors"), head)


@pytest.mark.parametrize("field", KINDS)
def test_a_copy_remembers_the_arguments(field):
    assert copy.deepcopy(HEADS[field]).arguments == HEADS[field].arguments


def test_numbers_that_are_no_tensors_are_kept():
    assert HEADS["values"].arguments == {"dim_latent": 3, "dim": 2, "width": 4, "depth": 3, "discount": 0.8}
    assert HEADS["action_banks"].arguments == dict.fromkeys(("low", "high", "start", "actions", "steps"))


def test_a_file_of_another_class_is_refused(tmp_path):
    path = tmp_path / "value0.safetensors"
    HEADS["action_priors"].save(path)
    with pytest.raises(ValueError, match=r"value0.safetensors holds ActionPrior; expected Value\. Remove it"):
        Value.load(path)
    save_file({"mean": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match=r"value0.safetensors holds no head; expected Value\. Remove it"):
        Value.load(path)


@pytest.mark.parametrize(
    "metadata",
    [
        '{"dim_latent": 3, "dim": 2, "width": 4, "height": 1}',  # an argument that is not known
        '{"dim_latent": 3, "dim": 2, "width": 5, "depth": 1}',  # tensors of another size
    ],
)
def test_a_file_of_another_version_is_refused(tmp_path, metadata):
    path = tmp_path / "state_readout0.safetensors"
    tensors = HEADS["readouts"].state_dict()
    save_file(tensors, path, {"head": "StateReadout", "arguments": metadata})
    with pytest.raises(ValueError, match=r"state_readout0.safetensors holds a StateReadout of another version of hiwm"):
        StateReadout.load(path)


def test_a_damaged_file_is_refused(tmp_path):
    path = tmp_path / "text0.safetensors"
    HEADS["texts"].save(path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(
        ValueError, match=r"text0.safetensors is damaged .*; remove it, and `hiwm train` writes it again"
    ):
        TextHead.load(path)


def test_a_record_of_heads_is_saved_with_its_gaps(tmp_path):
    heads = Heads(
        action_banks=[HEADS["action_banks"]] * 2,
        readouts=[HEADS["readouts"]] * 2,
        calibrations=[None, HEADS["calibrations"]],
        values=[HEADS["values"], None],
    )
    heads.save(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "action_bank0.safetensors", "action_bank1.safetensors", "calibration1.safetensors", "state_readout0.safetensors",
        "state_readout1.safetensors", "value0.safetensors",
    ]  # fmt: skip
    loaded = Heads.load(tmp_path, 2)
    assert loaded.texts == loaded.action_priors == []
    for field in KINDS:
        for k in range(2):
            before, after = head_of(getattr(heads, field), k), head_of(getattr(loaded, field), k)
            assert (before is None) == (after is None)
            assert before is None or same(before, after)
    assert head_of(loaded.values, 2) is None
