from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import pytest

from hiwm.locks import locked

HOLDER = """
import sys, time
from pathlib import Path
from hiwm.locks import locked
with locked(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of a folder."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "locked\n"  # type: ignore[union-attr]
        yield process
        process.kill()


def test_the_second_command_waits_for_the_first_and_says_so(holder, tmp_path, capsys):
    killer = threading.Timer(1.0, holder.kill)  # even this ends the lock
    killer.start()
    before = time.monotonic()
    with locked(tmp_path / "run"):
        assert time.monotonic() - before > 0.5
    said = capsys.readouterr().out
    assert said.startswith(f"waiting for process {holder.pid} on ")
    assert said.endswith(f"which uses {tmp_path / 'run'}\n")
    assert said.count("waiting") == 1
    assert os.listdir(tmp_path) == []  # no lock stays behind


def test_a_link_to_a_folder_has_the_lock_of_the_folder(tmp_path):
    (tmp_path / "levels").mkdir()
    (tmp_path / "link").symlink_to("levels")
    with locked(tmp_path / "link"):
        assert (tmp_path / "levels.lock").exists()
        assert not (tmp_path / "link.lock").exists()


def test_many_threads_take_turns(tmp_path):
    """The file is removed and made anew by each holder, and still only one holds it."""
    inside, most = 0, 0

    def work() -> None:
        nonlocal inside, most
        for _ in range(20):
            with locked(tmp_path / "run"):
                inside += 1
                most = max(most, inside)
                time.sleep(0.001)
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert os.listdir(tmp_path) == []
