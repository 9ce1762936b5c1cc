"""A student's way in JupyterLab, in Chromium: wrong, told so, right, handed in, graded."""

import csv
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tools import assignments, grading, screenshots

UNTOUCHED = "    ..."
RIGHT = """
    trace = scale_tril.square().sum(dim=(1, 2))
    log_det = 2 * scale_tril.diagonal(dim1=1, dim2=2).log().sum(dim=1)
    return 0.5 * (trace + mu.square().sum(dim=1) - mu.shape[1] - log_det)
"""
WRONG = RIGHT.replace("2 * scale_tril", "scale_tril")


@pytest.fixture
def handed_out(tmp_path: Path) -> Path:
    """The folder that a student unpacks."""
    assignments.main(["vae"])
    with zipfile.ZipFile(assignments.BUILD / "vae" / "vae-student.zip") as archive:
        archive.extractall(tmp_path)
    return tmp_path / "vae"


@pytest.fixture
def lab(handed_out: Path, tmp_path: Path) -> Iterator[Page]:
    """The notebook, open in JupyterLab."""
    if screenshots.find_chromium() is None:
        if os.environ.get("AECORE_REQUIRE_BROWSER") == "1":
            pytest.fail("no Chromium is installed")
        pytest.skip("no Chromium is installed")
    folders = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
    environment = os.environ | {name: str(tmp_path / name) for name in folders}
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--port=0"]
    command += ["--IdentityProvider.token=", "--LabApp.expose_app_in_browser=True"]
    command += ["--LabApp.extension_manager=readonly"]
    with (
        subprocess.Popen(
            command, cwd=handed_out, env=environment, stderr=subprocess.PIPE, text=True
        ) as server,
        screenshots.chromium() as browser,
    ):
        line = next(line for line in server.stderr if "http://" in line and "/lab" in line)
        address = line[line.index("http://") :].split("/lab")[0]
        page = browser.new_page(viewport={"width": 1200, "height": 1000})
        page.goto(f"{address}/lab/tree/vae.ipynb?reset")
        page.wait_for_function(
            "window.jupyterapp?.shell.currentWidget?.context?.sessionContext?.session?.kernel"
            "?.status === 'idle'",
            timeout=120_000,
        )
        yield page
        server.terminate()


def find(page: Page, text: str) -> int:
    """The number of the first cell that holds a text."""
    script = """text => jupyterapp.shell.currentWidget.content.widgets.findIndex(
        cell => cell.model.sharedModel.getSource().includes(text))"""
    return page.evaluate(script, text)


def replace(page: Page, cell: int, old: str, new: str) -> None:
    """Edit a cell."""
    script = """([cell, old, text]) => {
        const model = jupyterapp.shell.currentWidget.content.widgets[cell].model.sharedModel;
        model.setSource(model.getSource().replace(old, text)) }"""
    page.evaluate(script, [cell, old, new])


def run(page: Page, cell: int) -> str:
    """Run a cell; gives what stands below it."""
    script = """async cell => {
        const notebook = jupyterapp.shell.currentWidget.content;
        notebook.deselectAll();
        notebook.activeCellIndex = cell;
        await jupyterapp.commands.execute('notebook:run-cell');
        return notebook.widgets[cell].outputArea.node.innerText }"""
    return page.evaluate(script, cell)


def test_a_question_is_answered_wrong_then_right_and_graded(
    lab: Page, handed_out: Path, tmp_path: Path
) -> None:
    run(lab, 0)
    run(lab, find(lab, "import math"))
    answer, check = find(lab, "def full_gaussian_kl"), find(lab, 'grader.check("q1")')

    run(lab, answer)
    assert "The function returns nothing." in run(lab, check)

    replace(lab, answer, UNTOUCHED, WRONG)
    run(lab, answer)
    said = run(lab, check)
    assert "you took the determinant of the factor for that of the covariance." in said
    expect(lab.get_by_text("you took the determinant of the factor").first).to_be_visible()

    replace(lab, answer, WRONG, RIGHT)
    run(lab, answer)
    assert "q1 passed!" in run(lab, check)

    lab.evaluate("() => jupyterapp.commands.execute('docmanager:save')")
    assert "Your submission has been exported" in run(lab, find(lab, "grader.export("))
    (archive,) = handed_out.glob("*.zip")
    (tmp_path / "class").mkdir()
    archive.rename(tmp_path / "class" / "ada.zip")
    table = grading.grade_class("vae", tmp_path / "class", tmp_path / "results")
    with table.open() as stream:
        (row,) = csv.DictReader(stream)
    assert (row["q1"], row["total"]) == ("25", "25")
