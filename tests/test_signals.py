"""Signals: put off, raised at once, ignored, and while a command starts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from hiwm import cli
from hiwm.signals import HANDLED, Stopped, deferring, raising


def test_a_signal_interrupts_no_import(monkeypatch):
    imported = []

    def interrupted(module):
        os.kill(os.getpid(), signal.SIGTERM)
        imported.append(module)
        return SimpleNamespace(function=module)

    monkeypatch.setattr(cli.importlib, "import_module", interrupted)
    with raising(), pytest.raises(Stopped) as stopped:
        cli._imported("one:function", "other:function")
    assert stopped.value.status == 143
    assert imported == ["one", "other"]


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


@pytest.mark.parametrize("after", [0.0, 2.0])  # the parent is alive when the watch begins, or dead already
def test_a_process_ends_with_its_parent(tmp_path, after):
    child = f"import time; time.sleep({after}); from hiwm.signals import end_with_parent; end_with_parent(); time.sleep(100)"
    parent = f"import subprocess, sys, time; print(subprocess.Popen([sys.executable, '-c', {child!r}], stdout=subprocess.DEVNULL).pid); time.sleep({1 - after / 2})"
    found = subprocess.run([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True, check=True)
    for _ in range(300):
        if not alive(int(found.stdout)):
            break
        time.sleep(0.1)
    assert not alive(int(found.stdout))


def alive(pid):
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
