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
    calls, passes = draw({"a maze": table}).axes
    for axes, of_two, of_flat in ((calls, [101, 404], [102, 405]), (passes, [151, 504], [202, 805])):
        two, flat = axes.get_lines()
        assert (two.get_label(), flat.get_label()) == ("2 levels", "flat, metric")
        np.testing.assert_allclose(two.get_xydata(), np.stack([of_two, [60, 90]], 1))
        np.testing.assert_allclose(flat.get_xydata(), np.stack([of_flat, [10, 30]], 1))
    assert calls.get_title(loc="left") == "a maze"
