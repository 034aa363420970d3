"""Files survive crashes and full disks. A small file system in memory is mounted where that is permitted."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import tiny
import torch

from hiwm.cli import main
from hiwm.disk import append_json, cut_json_lines, read_json_lines, replacing
from hiwm.tensors import save_tensors
from hiwm.training.checkpoint import load_checkpoint, save_checkpoint


@pytest.fixture
def small_disk(tmp_path):
    """A folder with 2 MB of space."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounting is not permitted")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_torn_line_is_left_out_and_then_repaired(tmp_path):
    path = tmp_path / "history.jsonl"
    assert read_json_lines(path) == []
    for step in range(300):
        append_json(path, {"step": step, "text": "x" * 40})
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])  # a crash while the last line was written
    assert [record["step"] for record in read_json_lines(path)] == list(range(299))
    append_json(path, {"step": 299, "text": "x" * 40})
    assert path.read_bytes() == whole
    path.write_bytes(b'{"step": 0')
    append_json(path, {"step": 1})
    assert read_json_lines(path) == [{"step": 1}]


def test_records_can_be_cut(tmp_path):
    path = tmp_path / "history.jsonl"
    for step in (0, 5, 10):
        append_json(path, {"step": step})
    before = path.stat().st_mtime_ns
    cut_json_lines(path, lambda record: True)
    assert path.stat().st_mtime_ns == before
    cut_json_lines(path, lambda record: record["step"] < 10)
    assert read_json_lines(path) == [{"step": 0}, {"step": 5}]


def test_a_block_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "metrics.json"
    path.write_text("old")
    with pytest.raises(RuntimeError), replacing(path) as temporary:  # noqa: PT012
        temporary.write_text("new")
        raise RuntimeError
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["metrics.json"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_an_error_of_the_disk_names_the_file(tmp_path, number):
    path = tmp_path / "metrics.json"
    path.write_text("old")
    with pytest.raises(OSError) as caught, replacing(path):  # noqa: PT011
        raise OSError(number, os.strerror(number))
    assert caught.value.filename == str(path)
    assert path.read_text() == "old"


def test_what_cannot_fit_is_refused_before_it_is_written(tmp_path):
    with pytest.raises(OSError, match=r"it needs 1,000,000,000\.0 MB, .* MB free"), replacing(tmp_path / "x", 10**15):
        raise AssertionError("the block must not run")


def test_a_full_disk_keeps_the_last_checkpoint(small_disk):
    path = small_disk / "checkpoint.pt"
    save_checkpoint(path, {"step": 1, "weights": torch.ones(1000)})
    with pytest.raises(OSError, match="No space left on the disk") as caught:
        save_checkpoint(path, {"step": 2, "weights": torch.ones(10**6)})
    assert caught.value.filename == str(path)
    assert load_checkpoint(path)["step"] == 1  # type: ignore[index]
    with pytest.raises(OSError, match=r"it needs 4\.0 MB"):
        save_tensors(small_disk / "level.safetensors", {"weight": torch.ones(10**6)})
    assert os.listdir(small_disk) == ["checkpoint.pt"]


def test_a_full_disk_while_a_line_is_written_spoils_no_other_line(small_disk):
    path = small_disk / "history.jsonl"
    with pytest.raises(OSError, match="No space left"):  # noqa: PT012
        for step in range(10**5):
            append_json(path, {"step": step, "text": "x" * 1000})
    records = read_json_lines(path)
    assert [record["step"] for record in records] == list(range(len(records)))
    assert len(records) > 1000


@pytest.mark.parametrize("verb", ["collect", "train", "evaluate", "report"])
def test_every_command_names_what_does_not_fit(tiny_run, tmp_path, monkeypatch, capsys, verb):
    """Each fails at a write of a library that names no file."""

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    shutil.copytree(tiny_run.root, tmp_path / "root")
    broken = {
        "collect": "hiwm.data.store.Writer.append", "train": "hiwm.experiment.training._build_graphs",
        "evaluate": "hiwm.experiment.evaluation.save_traces", "report": "matplotlib.figure.Figure.savefig",
    }[verb]  # fmt: skip
    monkeypatch.setattr(broken, full)
    overrides = tiny.overrides(tmp_path / "root", "tracking=none", "evaluation.name=again", "evaluation.max_steps=3")
    where = tmp_path / "root" / "tiny"
    if verb == "report":
        overrides.remove("evaluation.name=again")
        overrides.remove("evaluation.max_steps=3")
    if verb == "collect":
        where = tmp_path / "root" / "datasets" / "tiny.h5"
        where.unlink()
    before = {path: path.read_bytes() for path in (tmp_path / "root").rglob("*") if path.is_file()}
    capsys.readouterr()
    assert main([verb, *overrides]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"hiwm {verb}: {where}: No space left on the disk, ")
    assert " MB free. Earlier files are intact. Free some space and run the same command" in line
    assert {path: path.read_bytes() for path in before} == before
    assert not [*(tmp_path / "root").rglob("*.lock"), *(tmp_path / "root").rglob("*.tmp")]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "a.h5"), "a.h5: No space left on device. Free some space"),
        (OSError(errno.EROFS, "Read-only file system", "a.h5"), "a.h5: Read-only file system\n"),
        (RuntimeError("database or disk is full"), "the disk is full. Free some space"),
    ],
)
def test_an_error_of_the_disk_is_one_line(monkeypatch, capsys, error, said):
    def fails(config):
        raise error

    monkeypatch.setattr("hiwm.experiment.collect", fails)
    assert main(["collect"]) == 1
    answer = capsys.readouterr().err
    assert answer.startswith(f"hiwm collect: {said}")
    assert len(answer.splitlines()) == 1


def test_a_read_only_folder_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError) as caught:  # noqa: PT011
        append_json(tmp_path / "file" / "history.jsonl", {})
    assert str(caught.value.filename).endswith("history.jsonl")
