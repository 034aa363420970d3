from __future__ import annotations

import pytest
from planning_tools import exact_hierarchy


@pytest.fixture
def exact():
    """One level whose latent is the position and whose predictor is right."""
    return exact_hierarchy()
