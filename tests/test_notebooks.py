"""The notebooks run from the first cell to the last, in an empty folder."""

from pathlib import Path

import pytest

from .conftest import ROOT

nbformat = pytest.importorskip("nbformat", reason="notebooks are run where the extra `docs` is installed")
nbclient = pytest.importorskip("nbclient", reason="notebooks are run where the extra `docs` is installed")
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path) -> None:
    """Its own assertions hold; what it writes lies in the folder that it is run in."""
    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code)
    assert any("image/png" in output.get("data", {}) for cell in code for output in cell.outputs), "it draws"
    assert (tmp_path / "lightning_logs").is_dir()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_holds_no_outputs(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    assert not [cell for cell in notebook.cells if cell.get("outputs") or cell.get("execution_count")]


def test_there_are_notebooks() -> None:
    assert {path.stem for path in NOTEBOOKS} == {"collapse", "your_own"}
