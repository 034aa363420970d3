"""A writer leaves its folder alone, and a full disk costs no episode."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from test_store import make_episodes

from hiwm.data.store import DatasetError, Writer, open_dataset


@pytest.mark.parametrize("name", ["../leak", "/tmp/leak", "..", "ep_len", "a/b", "", ".hidden"])
def test_a_column_of_another_name_than_a_plain_one_is_not_written(tmp_path, name):
    with pytest.raises(DatasetError, match=r"a column is named"), Writer(tmp_path / "data.h5", {}) as writer:
        writer.append({name: np.zeros((3, 1)), "action": np.zeros((3, 1))})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "values", [np.full(3, "text"), np.full(3, None), np.zeros(3, "c8")], ids=["text", "object", "complex"]
)
def test_only_numbers_are_written(tmp_path, values):
    with pytest.raises(DatasetError, match="expected numbers"), Writer(tmp_path / "data.h5", {}) as writer:
        writer.append({"state": values, "action": np.zeros((3, 1))})


FOREIGN = {
    "another folder": {"metadata": {}, "columns": {"../victim": [[1], "<f4"]}},
    "another file": {"metadata": {}, "columns": {"VICTIM": [[1], "<f4"]}},
    "objects": {"metadata": {}, "columns": {"state": [[1], "|O"]}},
    "no shape": {"metadata": {}, "columns": {"state": [[-1], "<f4"]}},
    "a list": [],
    "no columns": {"metadata": {}},
    "no type": {"metadata": {}, "columns": {"state": [[1], "nonsense"]}},
    "half a type": {"metadata": {}, "columns": {"state": [[1], "(2,3"]}},
    "not one column": {"metadata": {}, "columns": {}},
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_foreign_index_touches_no_other_file(tmp_path, kind):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "data.parts").mkdir()
    index = json.dumps(FOREIGN[kind]).replace("VICTIM", str(victim))
    (tmp_path / "data.parts" / "ep_len").write_text(f"{index}\n1\n")
    with pytest.raises(DatasetError, match=r"data\.parts is not what an interrupted command left.*Remove the folder"):
        Writer(tmp_path / "data.h5", {}, resume=True).__enter__()
    assert victim.read_text() == "precious"


def test_parts_that_are_links_are_not_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "data.parts").mkdir()
    (tmp_path / "data.parts" / "state").symlink_to(victim)
    with pytest.raises(OSError, match="symbolic links"), Writer(tmp_path / "data.h5", {}) as writer:
        writer.append(make_episodes()[0])
    assert victim.read_text() == "precious"


FULL = """
import sys, numpy as np
from hiwm.data.store import Writer
with Writer(sys.argv[1], {}, resume=True) as writer:
    for _ in range(len(writer.ep_len), 30):
        writer.append({"pixels": np.zeros((100, 8, 8, 3), np.uint8), "action": np.zeros((100, 2), np.float32)})
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small disk")
@pytest.mark.parametrize("kilobytes", [200, 620, 700, 1100, 1300, 4000, 4900])
def test_a_full_disk_is_one_clear_error_and_the_episodes_are_kept(tmp_path, kilobytes):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", disk], capture_output=True
    ).returncode:
        pytest.skip("this machine lets nobody mount a disk")
    try:
        path = disk / "data.h5"
        done = subprocess.run([sys.executable, "-c", FULL, path], capture_output=True, text=True)
        assert done.returncode == 1, done.stderr  # no signal
        assert "No space left" in done.stderr or "the disk is full: the dataset needs 0.00 GB more" in done.stderr
        assert [file.name for file in disk.iterdir()] == ["data.parts"]
        subprocess.run(["mount", "-o", "remount,size=20m", disk], check=True)
        subprocess.run([sys.executable, "-c", FULL, path], check=True)
        assert open_dataset(path).num_steps == 3000
    finally:
        subprocess.run(["umount", disk], check=True)
