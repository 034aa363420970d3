"""The notebooks run from top to bottom on a tiny trained hierarchy."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "analysis" / "notebooks").glob("*.ipynb"))


@pytest.mark.filterwarnings("ignore")  # of jupyter's own libraries
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, tiny_run, monkeypatch):
    monkeypatch.setenv("HIWM_RUN", str(tiny_run.folder))
    monkeypatch.setenv("PYTHONPATH", f"{Path(__file__).parents[1]}:{Path(__file__).parent}")
    notebook = nbformat.read(path, 4)
    assert all(not cell.get("outputs") for cell in notebook.cells), "commit notebooks without outputs"
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(path.parent)}}).execute()
    figures = [o for cell in notebook.cells for o in cell.get("outputs", []) if o.output_type == "display_data"]
    assert len(figures) == 7  # the principal components and six questions
