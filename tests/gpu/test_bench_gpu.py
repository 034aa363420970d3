"""`make gpu`'s table, tried on the CPU."""

from __future__ import annotations

import csv
import os
import sys
import warnings

import pytest
import tiny

sys.path.insert(0, str(tiny.TESTS / "benchmarks"))
import bench_gpu


@pytest.mark.skipif("HIWM_GPU" in os.environ, reason="there is a GPU")
def test_without_a_gpu_it_says_so_in_one_line(capsys):
    assert bench_gpu.main([]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "no CUDA device" in line


def test_every_number_is_in_the_table(tmp_path, monkeypatch):
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import stable_worldmodel.solver.cem as theirs
    except ImportError:  # it needs a torchvision for the same torch
        theirs = None
        monkeypatch.setattr(bench_gpu, "planning", lambda device: iter(()))
    assert bench_gpu.main([str(tmp_path / "gpu.csv"), "--device", "cpu", "--small"]) == 0
    with open(tmp_path / "gpu.csv", newline="") as file:
        header, *rows = csv.reader(file)
    assert tuple(header) == bench_gpu.HEADER
    number = {(what, case, unit): float(value) for what, case, value, unit, *_ in rows}
    for case in bench_gpu.TRAINED:
        assert number["training", case, "frames/s"] > 0
        assert number["training", case, "% of the matmul rate"] > 0
    for batch in (1, 50) if theirs else ():
        for name in ("ours", f"theirs, {batch} at once"):
            assert number["planning", f"{batch} environments, {name}", "ms/plan"] > 0
    assert all(value == 0 for (what, *_), value in number.items() if what == "agreement")  # of the CPU with itself
    assert sum(what == "agreement" for what, *_ in number) == len(bench_gpu.COMPARED) + 1
