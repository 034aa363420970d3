"""Small datasets, damaged in many ways: a DatasetError that names the file, or the content that h5py reads; never a crash."""

import subprocess
import sys

RUN = """
import faulthandler, sys
faulthandler.enable()
sys.path.insert(0, sys.argv[2])
from mutations import run
print(run(sys.argv[1]))
"""


def test_damaged_files_are_refused_or_right(tmp_path, monkeypatch, capsys):
    """In a process of its own, so that a crash of the interpreter fails this test alone."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = __file__.rpartition("/")[0]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", RUN, tmp_path, folder], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    counts = eval(done.stdout.splitlines()[-1])
    with capsys.disabled():
        print(f"\n{sum(counts.values())} damaged datasets: {counts}")
    assert sum(counts.values()) >= 250
    assert min(counts["refused"], counts["right"], counts["left out"]) > 20
