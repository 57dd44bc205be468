"""Runs the notebook of the tutorials and keeps its outputs: `python docs/make_notebook.py`, where the extra `test` is
installed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

NOTEBOOK = Path(__file__).with_name("tutorials") / "two_models.ipynb"
BUDGET = "budget"  # the tag of the cell that says for how long is trained


def executed(budget: str | None = None) -> Any:
    """Return the notebook as it is after a run, in a process of its own.

    Args:
        budget: takes the place of the cell that says for how long is trained.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell raises; its message has the traceback.
    """
    import nbformat
    from nbclient import NotebookClient
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for cell in notebook.cells:
        if budget is not None and BUDGET in cell.metadata.get("tags", ()):
            cell.source = budget
    NotebookClient(notebook, timeout=None, kernel_name="python3").execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # when it ran
    notebook.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    return notebook


def shown_text(notebook: Any) -> str:
    """All text that the notebook's outputs show, without pictures."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return "\n".join([*(output["text"] for output in outputs if "text" in output),
                      *(output["data"].get("text/plain", "") for output in outputs if "data" in output)])


def machine_paths(text: str) -> list[str]:
    """Absolute paths in the text, which are of the machine that wrote it."""
    return re.findall(r"(?<![\w./:-])/[\w.-]+/[\w./-]+", text)


if __name__ == "__main__":
    import nbformat
    nbformat.write(executed(), NOTEBOOK)
