"""The notebook of the tutorials runs as it stands, and is kept with the outputs of such a run."""

import importlib.util
import re
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
MOST_BYTES = 400_000


def load_maker():
    spec = importlib.util.spec_from_file_location("make_notebook", ROOT / "docs" / "make_notebook.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


maker = load_maker()
kept = nbformat.read(maker.NOTEBOOK, as_version=4)


def test_all_cells_were_run_in_order_and_none_failed():
    nbformat.validate(kept)
    cells = [cell for cell in kept.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    kinds = {output["output_type"] for cell in cells for output in cell.outputs}
    assert kinds <= {"stream", "display_data", "execute_result"}
    assert all(output["name"] == "stdout" for cell in cells for output in cell.outputs if "name" in output)


def test_figures_are_kept_and_the_file_is_small():
    pictures = [o for cell in kept.cells for o in cell.get("outputs", ()) if "image/png" in o.get("data", ())]
    assert len(pictures) == 2
    assert maker.NOTEBOOK.stat().st_size <= MOST_BYTES


def test_nothing_kept_names_the_machine_that_ran_it():
    assert maker.machine_paths("own / partner's: 1/2, in /tmp/x/B.zip") == ["/tmp/x/B.zip"]
    assert maker.machine_paths(maker.shown_text(kept)) == []
    assert set(kept.metadata) == {"kernelspec"} and all("execution" not in cell.metadata for cell in kept.cells)


def test_pages_that_it_links_to_exist():
    links = re.findall(r"\]\(([^)#]+)", "\n".join(c.source for c in kept.cells if c.cell_type == "markdown"))
    assert links and all((maker.NOTEBOOK.parent / link).is_file() for link in links)


@pytest.mark.slow
def test_it_runs_and_shows_what_is_kept(tmp_path, monkeypatch):
    """With a shorter training, whose numbers are others."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    again = maker.executed("epochs, iterations = 1, 2")
    assert [cell.execution_count for cell in again.cells if cell.cell_type == "code"] == [
        cell.execution_count for cell in kept.cells if cell.cell_type == "code"]
    for before, after in zip(kept.cells, again.cells):
        assert kinds_of(before) == kinds_of(after)


def kinds_of(cell) -> list[tuple[str, list[str]]]:
    return [(output["output_type"], sorted(output.get("data", ()))) for output in cell.get("outputs", ())]
