"""The notebooks of the documentation run from top to bottom, and are small."""

import re
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="notebooks need nbformat and nbclient")
NotebookClient = pytest.importorskip("nbclient", reason="notebooks need nbformat and nbclient").NotebookClient

NOTEBOOKS = sorted((Path(__file__).parent.parent / "docs" / "notebooks").glob("*.ipynb"))


def test_there_are_two():
    assert [path.stem for path in NOTEBOOKS] == ["my-method", "my-pictures"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_small_and_its_links_lead_somewhere(path):
    assert path.stat().st_size < 200_000
    notebook = nbformat.read(path, 4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            for target in re.findall(r"\]\(([^)#]+)", cell.source):
                assert (path.parent / target).exists(), target
        else:
            assert "error" not in [output.output_type for output in cell.outputs]


def shortened(source):
    """The same code with runs of a few steps."""
    source = re.sub(r'("epochs": )\d+', r"\g<1>2", source)
    return re.sub(r'(iterations=|"iterations": )\d+', r"\g<1>20", source)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_works_from_top_to_bottom(path, tmp_path):
    notebook = nbformat.read(path, 4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.source = shortened(cell.source)
    assert sum('"epochs": 2}' in cell.source for cell in notebook.cells) == 1
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    lines = [output for output in shown if output.output_type == "display_data"]
    assert lines  # of progress
    assert {output.data["text/plain"] for output in lines} == {""}  # and they have gone
    assert any("image/png" in output.get("data", {}).get("text/html", "") for output in shown)
    assert not [output for output in shown if output.output_type == "stream" and output.name == "stderr"]
