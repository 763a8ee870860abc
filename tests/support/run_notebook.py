"""Builds `examples/colab.ipynb` from its script, runs it and stores its outputs: `python run_notebook.py`."""

import os
import tempfile
from hashlib import sha256
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

EXAMPLES = Path(__file__).parents[2] / "examples"
OF_CODE = "outputs_of"  # in the notebook's metadata: what code its outputs are of


def digest(notebook: nbformat.NotebookNode) -> str:
    """Returns the hash of all code."""
    return sha256("\0".join(cell.source for cell in notebook.cells if cell.cell_type == "code").encode()).hexdigest()


def execute(notebook: nbformat.NotebookNode, folder: Path) -> None:
    """Runs a notebook in a folder and stores its outputs in it."""
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=900, kernel_name="python3", resources=resources, record_timing=False).execute()


def store(notebook: nbformat.NotebookNode, file: Path) -> None:
    """Writes a notebook that was run, without the standard error of libraries."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    notebook.metadata.pop("jupytext", None)
    notebook.metadata[OF_CODE] = digest(notebook)
    nbformat.write(notebook, file)


def main() -> None:
    os.environ["PYTHONPATH"] = str(EXAMPLES.parent)
    notebook = jupytext.read(EXAMPLES / "colab.py")
    for place, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{place}"
    with tempfile.TemporaryDirectory() as folder:
        execute(notebook, Path(folder))
    store(notebook, EXAMPLES / "colab.ipynb")


if __name__ == "__main__":
    main()
