"""Signals while a command starts."""

from __future__ import annotations

import os
import signal
from types import SimpleNamespace

import pytest

from hiwm import cli
from hiwm.signals import Stopped, raising


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
