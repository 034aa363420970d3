from pathlib import Path

import numpy as np
import pytest
import torch
import two_processes

from hiwm.agent import load_agent
from hiwm.config import load_config
from hiwm.data.store import Writer, open_dataset
from hiwm.hierarchy import LevelSpec
from hiwm.training import latents
from hiwm.training.distributed import ALONE, Processes, barrier, end_process
from hiwm.training.latents import cache_latents


def test_cached_macro_actions_are_those_of_the_chunk_that_starts_there(tiny_run):
    agent = load_agent(tiny_run.folder / "hierarchy")
    caches = [
        open_dataset(tiny_run.config.levels_folder / spec.fingerprint / "latents.h5") for spec in agent.hierarchy.specs
    ]
    for k in range(1, len(caches)):
        level, below = agent.hierarchy.levels[k], caches[k - 1]
        period, below_period = agent.hierarchy.periods[k], agent.hierarchy.periods[k - 1]
        row = int(below.ep_offset[1]) + 2  # within the second episode
        chunk = np.array(below.column("action")[row : row + period : below_period])
        latent = level.encode({"latent": torch.from_numpy(np.array(below.column("latent")[row : row + 1]))})
        macro = level.encode_actions(latent, torch.from_numpy(chunk).unsqueeze(0))
        torch.testing.assert_close(macro[0], torch.from_numpy(np.array(caches[k].column("action")[row])))
        torch.testing.assert_close(latent[0], torch.from_numpy(np.array(caches[k].column("latent")[row])))
        last = int(below.ep_offset[1] + below.ep_len[1] - 1)
        assert not caches[k].column("action")[last].any()  # too near the end for a macro-action


def test_a_macro_action_is_cached_where_all_its_actions_lead_to_a_row(tmp_path):
    """The action of an episode's last row leads nowhere."""
    with Writer(tmp_path / "data.h5", {}) as writer:
        for length in (7, 4):
            writer.append({"state": np.ones((length, 2), np.float32), "action": np.ones((length, 2), np.float32)})
    level = LevelSpec(load_config([]).levels["level0"], 3, {"state": (2,)}, 2, "").build().eval()
    cache_latents(level, open_dataset(tmp_path / "data.h5"), tmp_path / "latents.h5", ["state"], "action", 1)
    given = np.array(open_dataset(tmp_path / "latents.h5").column("action")).any(1)
    assert given.tolist() == [True] * 4 + [False] * 3 + [True] + [False] * 3


def test_frames_are_encoded_a_bounded_number_of_bytes_at_once(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    with Writer(tmp_path / "data.h5", {}) as writer:
        for length in (90, 11):
            actions = rng.normal(size=(length, 2)).astype(np.float32)
            writer.append({"state": actions, "action": actions})
    data = open_dataset(tmp_path / "data.h5")
    level = LevelSpec(load_config([]).levels["level0"], 1, {"state": (2,)}, 2, "").build().eval()
    rows, encode = [], level.encode
    monkeypatch.setattr(level, "encode", lambda inputs: rows.append(len(inputs["state"])) or encode(inputs))
    found = []
    for limit in (latents.BYTES_AT_ONCE, 20 * 2 * 4):
        monkeypatch.setattr(latents, "BYTES_AT_ONCE", limit)
        cache_latents(level, data, tmp_path / f"{limit}.h5", ["state"], "action", 1)
        found.append(np.array(open_dataset(tmp_path / f"{limit}.h5").column("latent")))
    assert rows == [101, 20, 20, 20, 20, 20, 1]
    np.testing.assert_allclose(found[1], found[0], atol=1e-6)


def cache_blocks(folder, name, processes):
    """Cache in blocks of about 20 rows; returns how many rows this process encoded."""
    latents.ROWS_AT_ONCE = 20
    level = LevelSpec(load_config([]).levels["level0"], 3, {"state": (2,)}, 2, "").build().eval()
    level.encode, encode, rows = (lambda inputs: rows.append(len(inputs["state"])) or encode(inputs)), level.encode, []
    cache_latents(level, open_dataset(f"{folder}/data.h5"), Path(folder, name), ["state"], "action", 1, "me", processes)
    return sum(rows)


def cache_a_share(rank, folder):
    torch.manual_seed(0)
    rows = cache_blocks(folder, "two.h5", Processes(rank, 2, torch.device("cpu")))
    assert 60 <= rows <= 90, rows


def test_two_processes_share_the_blocks_and_write_the_file_of_one(tmp_path):
    rng = np.random.default_rng(0)
    with Writer(tmp_path / "data.h5", {}) as writer:
        for length in (30, 7, 12, 25, 40, 9, 23):
            state = rng.normal(size=(length, 2)).astype(np.float32)
            writer.append({"state": state, "action": state[:, ::-1]})
    two_processes.run(cache_a_share, tmp_path)
    torch.manual_seed(0)
    rows_at_once = latents.ROWS_AT_ONCE
    try:
        assert cache_blocks(tmp_path, "one.h5", ALONE) == 146
    finally:
        latents.ROWS_AT_ONCE = rows_at_once
    assert (tmp_path / "two.h5").read_bytes() == (tmp_path / "one.h5").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} <= {"data.h5", "one.h5", "two.h5", "rendezvous"}


def cache_with_a_process_that_ends(rank, folder):
    if rank == 1:
        barrier()  # connects the processes
        end_process(0)
    barrier()
    with pytest.raises(RuntimeError):
        cache_blocks(folder, "two.h5", Processes(rank, 2, torch.device("cpu")))
    assert {path.name for path in Path(folder).iterdir()} <= {"data.h5", "rendezvous"}
    end_process(0)


def test_a_process_that_ends_ends_the_cache_and_leaves_nothing(tmp_path):
    with Writer(tmp_path / "data.h5", {}) as writer:
        for _ in range(4):
            writer.append({"state": np.ones((20, 2), np.float32), "action": np.ones((20, 2), np.float32)})
    two_processes.run(cache_with_a_process_that_ends, tmp_path)
