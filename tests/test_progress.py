"""What a command says while it works."""

from __future__ import annotations

from hiwm.console import Bar
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


def test_the_time_of_starting_up_is_not_part_of_the_pace(monkeypatch, capsys):
    now = {"wall": 0.0}
    monkeypatch.setattr("time.monotonic", lambda: now["wall"])
    with Bar("collect", 200, "episodes") as bar:
        for wall, done in ((5.0, 1), (5.0, 10), (16.0, 111), (25.0, 199)):
            now["wall"] = wall
            bar.update(done)
        now["wall"] = 27.0
        bar.update(200, "done")
    assert capsys.readouterr().out.splitlines() == [
        "collect: 1/200 episodes",
        "collect: 111/200 episodes, 10/s, 9 s left",
        "collect: 200/200 episodes, 9.0/s done",
    ]
