"""What a command says while it works."""

from __future__ import annotations

from hiwm.progress import CoreShare


def test_a_process_without_a_core_says_so_once(monkeypatch):
    now = {"wall": 0.0, "cpu": 0.0}
    monkeypatch.setattr("time.monotonic", lambda: now["wall"])
    monkeypatch.setattr("time.process_time", lambda: now["cpu"])
    share, found = CoreShare(), []
    for _ in range(10):
        for key, step in (("wall", 10.0), ("cpu", 9.0 if now["wall"] < 40 else 3.0)):
            now[key] += step
        found.append(share.warning())
    (index,) = [i for i, text in enumerate(found) if text]
    assert index == 5  # 20 s after the cores were taken
    assert found[index].startswith("slow: in the last 20 s this process had 30 % of one core")
