from __future__ import annotations

import base64
import io
import json
import re

import pytest
from matplotlib import image


@pytest.fixture(scope="module")
def page(tiny_run):
    return (tiny_run.folder / "report.html").read_text()


def test_loads_nothing_from_elsewhere(page):
    linked = re.findall(r"(?:src|href)\s*=\s*[\"']([^\"']*)", page) + re.findall(r"url\(([^)]*)\)", page)
    assert linked
    assert all(link.startswith("data:image/png;base64,") for link in linked)
    assert "<script" not in page
    assert "@import" not in page
    assert "<link" not in page


def test_table_has_the_numbers_of_the_evaluation(page, tiny_run):
    agents = json.loads((tiny_run.folder / "evaluation.json").read_text())["agents"]
    rows = re.findall(r"<tr[^>]*><td>(.*?)</tr>", page, re.DOTALL)
    for name, numbers in agents.items():
        (row,) = [row for row in rows if row.startswith(f"{name}</td>")]
        cells = [cell.strip() for cell in re.findall(r"<td class=\"n\">(.*?)</td>", row, re.DOTALL)]
        low, high = numbers["interval"]
        assert cells[0] == f"{100 * numbers['success']:.1f} %"
        assert cells[1] == f"{100 * low:.1f} – {100 * high:.1f}"  # noqa: RUF001
        assert cells[2] == str(numbers["episodes"])
        assert cells[5] == f"{numbers['predictor_calls']:.0f}"
        assert cells[6] == f"{numbers['other_calls']:.0f}"


def test_images_decode(page, tiny_run):
    images = re.findall(r"data:image/png;base64,([A-Za-z0-9+/=]+)", page)
    assert len(images) == 4  # success, episodes, landmarks, curves
    for encoded in images:
        pixels = image.imread(io.BytesIO(base64.b64decode(encoded, validate=True)), format="png")
        assert min(pixels.shape[:2]) > 100
        assert pixels[..., :3].std() > 0.01  # something is drawn
    for name in ("curves", "landmarks", "success", "episodes"):
        assert image.imread(tiny_run.folder / "figures" / f"{name}.png").std() > 0.01


def test_levels_and_config_are_in_it(page, tiny_run):
    for folder in (tiny_run.folder / "levels").iterdir():
        assert folder.name in page
    assert "tiny.TinyRoom" in page
