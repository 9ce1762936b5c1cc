"""A class of fifty hands in the assignment on VAEs: how long grading takes, two at a time.

The figure to hold is five minutes on two cores. For scale: one submission that does nothing,
which is the price of a sandbox, a kernel and the imports.
"""

import tempfile
import time
from pathlib import Path

import nbformat

from tools import assignments, grading

CLASS = 50


def main() -> None:
    """Print seconds for a class, and for one empty notebook."""
    solution = assignments.master(assignments.read("vae"), hidden=False)
    with tempfile.TemporaryDirectory() as folder:
        handed_in, empty = Path(folder, "class"), Path(folder, "empty")
        handed_in.mkdir()
        empty.mkdir()
        nbformat.write(nbformat.v4.new_notebook(), empty / "empty.ipynb")
        for number in range(CLASS):
            nbformat.write(solution, handed_in / f"student-{number}.ipynb")
        for name, submissions in (("one empty notebook", empty), (f"{CLASS} solutions", handed_in)):
            started = time.perf_counter()
            table = grading.grade_class("vae", submissions, Path(folder, "results", name))
            seconds = time.perf_counter() - started
            print(f"{name:20} {seconds:6.1f} s")
        assert table.read_text().count(",100,") == CLASS


if __name__ == "__main__":
    main()
