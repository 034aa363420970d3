from __future__ import annotations

import numpy as np
import pandas as pd

from hiwm.analysis.budget_figure import draw


def test_a_line_for_every_planner_in_the_order_of_its_calls():
    table = pd.DataFrame({
        "variant": ["2 levels, 400", "2 levels, 100", "flat, metric, 400", "flat, metric, 100"],
        "success": [90.0, 60, 30, 10],
        "low": [80.0, 50, 20, 5],
        "high": [95.0, 70, 40, 20],
        "predictor_calls": [404.0, 101, 405, 102],
        "other_calls": [100.0, 50, 400, 100],
    })  # fmt: skip
    figure = draw({"a maze": table, "another": table.iloc[2:]})
    calls, passes, _, _ = figure.axes
    for axes, of_two, of_flat in ((calls, [101, 404], [102, 405]), (passes, [151, 504], [202, 805])):
        two, flat = axes.get_lines()
        np.testing.assert_allclose(two.get_xydata(), np.stack([of_two, [60, 90]], 1))
        np.testing.assert_allclose(flat.get_xydata(), np.stack([of_flat, [10, 30]], 1))
        band = axes.collections[0].get_paths()[0].vertices
        assert {tuple(point) for point in band} == set(zip(of_two * 2, [50, 80, 70, 95], strict=True))
    assert calls.get_title(loc="left") == "a maze"
    colours = [axes.get_lines()[-1].get_color() for axes in figure.axes]
    assert len(set(colours)) == 1  # a planner has the same colour in every panel
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["2 levels", "flat, metric"]
    assert legend.get_lines()[1].get_color() == colours[0]
