"""`hiwm data check` and `hiwm data show`; `test_importers` is about `hiwm data convert`."""

import h5py
import numpy as np
import pytest
from PIL import Image
from test_store import make_episodes, write

from hiwm.cli import main
from hiwm.data.store import open_dataset


@pytest.fixture
def path(tmp_path):
    path = write(tmp_path / "data.h5", make_episodes(lengths=[40, 30, 20]))
    with h5py.File(path, "r+", libver="latest") as file:
        file.create_dataset("task", data=["push"] * 90, dtype=h5py.string_dtype())
    return path


def test_check_says_what_a_dataset_holds(path, capsys):
    assert main(["data", "check", str(path)]) == 0
    out = capsys.readouterr().out
    assert "3 episodes, 90 rows; an episode has 20 to 40 rows, median 30" in out
    lines = {line.split()[0]: line.split() for line in out.splitlines() if line}
    assert lines["pixels"][1:8] == ["uint8", "(4,", "5,", "3)", "uint8", "(4,", "5,"]
    state = np.asarray(open_dataset(path).column("state"))
    assert [float(n) for n in lines["state"][-2:]] == pytest.approx([state.min(), state.max()], rel=1e-3)
    assert "task                    not used: it holds text" in out
    assert f"fingerprint: {open_dataset(path).fingerprint}" in out
    assert "it was changed" not in out
    assert out.endswith("all numbers are finite\n")


def test_check_measures_windows(path, capsys):
    command = [
        "data",
        "check",
        str(path),
        "experiment=custom",
        "~levels.level2",
        "levels.level1.stride=3",
        "levels.level1.horizon=8",
    ]
    assert main(command) == 0
    assert (
        "level 1: a window of 25 rows fits into 67 % of the episodes and can begin at 24 % of the rows"
        in capsys.readouterr().out
    )
    assert main([*command, "levels.level1.horizon=20"]) == 2
    assert "levels.level1: a window of 20 steps" in capsys.readouterr().err


def test_check_of_a_column_of_zero_width(tmp_path, capsys):
    episodes = [{**episode, "goal": np.zeros((len(episode["action"]), 0), np.float32)} for episode in make_episodes()]
    assert main(["data", "check", str(write(tmp_path / "data.h5", episodes))]) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("goal"))
    assert line.split() == ["goal", "float32", "(0,)", "float32", "(0,)", "no", "numbers"]


def test_check_finds_nan_and_changes(path, capsys):
    with h5py.File(path, "r+", libver="latest") as file:
        file["state"][50, 1] = np.nan
    assert main(["data", "check", str(path)]) == 2
    out, err = capsys.readouterr()
    assert "it was changed since it was written" in out
    assert "'state' is NaN or infinite in row 50, which is step 10 of episode 1" in err


@pytest.mark.parametrize("layout", ["HWC", "CHW", "grey", "float"])
def test_show_draws_episodes(tmp_path, layout):
    frames = np.random.default_rng(0).integers(0, 256, (20, 16, 24, 3), dtype=np.uint8)
    made = {
        "HWC": frames,
        "CHW": frames.transpose(0, 3, 1, 2),
        "grey": frames[..., 0],
        "float": frames / np.float32(255),
    }
    episodes = [{"camera": made[layout], "state": np.zeros((20, 2)), "action": np.arange(20) % 3}] * 5
    path = write(tmp_path / "data.h5", episodes)
    assert main(["data", "show", str(path), "-o", str(tmp_path / "picture.png")]) == 0
    picture = np.asarray(Image.open(tmp_path / "picture.png").convert("RGB"))
    assert picture.shape[1] > 4 * 300
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 200  # frames of noise


@pytest.mark.parametrize(
    "arguments", [[], ["show", "a.h5"], ["convert", "a"], ["mend", "a"], ["convert", "a", "b.h5", "c"], ["check"]]
)
def test_a_wrong_command_shows_the_right_ones(capsys, arguments):
    assert main(["data", *arguments]) == 2
    out, err = capsys.readouterr()
    assert "hiwm data convert SOURCE FILE.h5" in out + err


def test_a_missing_output_is_named(capsys):
    assert main(["data", "show", "a.h5"]) == 2
    assert "-o is missing" in capsys.readouterr().err
    assert main(["data", "check"]) == 2
    assert "-o is missing" not in capsys.readouterr().err


def test_a_missing_file_is_named(capsys, tmp_path):
    assert main(["data", "check", str(tmp_path / "nowhere.h5")]) == 2
    assert "nowhere.h5" in capsys.readouterr().err
