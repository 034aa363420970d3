from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from hiwm.locks import locked
from hiwm.signals import HANDLED, Stopped, deferring, raising

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


@pytest.mark.parametrize("number", HANDLED)
def test_a_signal_is_put_off_to_the_end_of_a_block(number):
    done = False
    with pytest.raises(Stopped) as stopped, raising(), deferring() as request:  # noqa: PT012
        os.kill(os.getpid(), number)
        done = True
        assert request.number == number
    assert done
    assert stopped.value.status == 128 + number


def test_elsewhere_a_signal_stops_at_once():
    before = [signal.getsignal(number) for number in HANDLED]
    with pytest.raises(Stopped), raising():  # noqa: PT012
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
        raise AssertionError("not stopped")
    assert [signal.getsignal(number) for number in HANDLED] == before


def test_a_second_ctrl_c_stops_at_once(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(Stopped), deferring():  # noqa: PT012
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)
        raise AssertionError("not stopped")


def test_an_ignored_signal_stays_ignored():
    """As `nohup` wants it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with raising(), deferring():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
