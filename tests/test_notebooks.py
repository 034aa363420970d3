"""The notebooks run from top to bottom, on the example that ships with hiwm, and draw figures."""

from pathlib import Path

import nbformat
import pytest
import tiny
from nbclient import NotebookClient

NOTEBOOKS = {
    "1_what_each_level_encodes": 7,
    "2_why_a_plan_failed": 5,
    "3_reading_an_ablation": 1,
    "4_your_own_environment": 2,
}


def test_every_notebook_is_run():
    assert {path.stem for path in (tiny.ROOT / "analysis" / "notebooks").glob("*.ipynb")} == set(NOTEBOOKS)


@pytest.mark.filterwarnings("ignore")  # of jupyter's own libraries
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebook_runs(name, tmp_path, monkeypatch):
    """As in its own folder, but that its results go elsewhere."""
    monkeypatch.setenv("PYTHONPATH", str(tiny.ROOT))
    notebook = nbformat.read(Path(tiny.ROOT, "analysis", "notebooks", f"{name}.ipynb"), 4)
    assert all(not cell.get("outputs") for cell in notebook.cells), "commit notebooks without outputs"
    NotebookClient(notebook, timeout=400, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == NOTEBOOKS[name]
    assert not [output for output in outputs if output.output_type == "error"]
    assert {path.name for path in tmp_path.iterdir()} <= {"runs"}  # which git ignores
