"""Grading a class: what is read, what is refused, what is kept, and who does the work."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import nbformat
import pytest

from tools import assignments, grading, run_submission, sandbox, written
from tools.written import Marks

SLUG = "vae"


def notebook(source: str = "") -> nbformat.NotebookNode:
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])


ANSWER = """
def free_bits(kl, floor):
    return kl.mean(dim=0).clamp(min=floor).sum()
"""


@pytest.fixture
def handed_in(tmp_path: Path) -> Path:
    """A class of one answer in each of the forms that a submission may have."""
    folder = tmp_path / "class"
    folder.mkdir()
    nbformat.write(notebook(ANSWER), folder / "ada.ipynb")
    with zipfile.ZipFile(folder / "grace.zip", "w") as archive:
        archive.writestr("vae.ipynb", nbformat.writes(notebook(ANSWER)))
        archive.writestr(".OTTER_LOG", b"x")
    (folder / "emmy").mkdir()
    nbformat.write(notebook(ANSWER), folder / "emmy" / "vae_2.ipynb")
    return folder


def grades(table: Path) -> dict[str, dict[str, str]]:
    with table.open() as stream:
        return {row["student"]: row for row in csv.DictReader(stream)}


def test_notebooks_archives_and_folders_are_graded(handed_in: Path, tmp_path: Path) -> None:
    table = grades(grading.grade_class(SLUG, handed_in, tmp_path / "results"))
    assert {student: row["total"] for student, row in table.items()} == dict.fromkeys(
        ("ada", "emmy", "grace"), "20"
    )
    assert table["ada"]["q3"] == "20"
    assert table["ada"]["q6 (by hand, of 10)"] == ""


def test_what_is_graded_stays_graded_until_it_changes(handed_in: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    shutil.rmtree(handed_in / "emmy")
    grading.grade_class(SLUG, handed_in, results)
    before = {p.stem: json.loads(p.read_text()) for p in (results / "submissions").iterdir()}
    nbformat.write(notebook("1 / 0"), handed_in / "ada.ipynb")
    table = grades(grading.grade_class(SLUG, handed_in, results))
    after = {p.stem: json.loads(p.read_text()) for p in (results / "submissions").iterdir()}
    assert after["grace"] == before["grace"]
    assert (table["ada"]["total"], table["grace"]["total"]) == ("0", "20")
    assert after["ada"]["cells"][0][1] == "ZeroDivisionError: division by zero"


def test_a_killed_run_finishes_what_was_left(handed_in: Path, tmp_path: Path) -> None:
    for name in ("b", "c", "d"):
        nbformat.write(notebook(ANSWER), handed_in / f"{name}.ipynb")
    results = tmp_path / "results"
    command = [sys.executable, "-m", "tools.grading", SLUG, str(handed_in)]
    command += ["--results", str(results), "--jobs", "1"]
    process = subprocess.Popen(command, start_new_session=True)
    done = results / "submissions"
    deadline = time.monotonic() + 120
    while not list(done.glob("*.json")) and time.monotonic() < deadline:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    first = {path.name: path.stat().st_mtime_ns for path in done.glob("*.json")}
    assert 0 < len(first) < 6
    assert not (results / "grades.csv").exists()
    subprocess.run(command, check=True)
    table = grades(results / "grades.csv")
    assert [row["total"] for row in table.values()] == ["20"] * 6
    for name, when in first.items():
        assert (done / name).stat().st_mtime_ns == when


CLUSTER = """
import sys
from distributed import Client, LocalCluster

if __name__ == "__main__":
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        print(cluster.scheduler_address, flush=True)
        sys.stdin.read()
        done = Client(cluster).run(lambda dask_worker: dask_worker.state.executed_count)
        print(*done.values(), flush=True)
"""


def test_ctrl_c_says_how_to_go_on(handed_in: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tools.grading", SLUG, str(handed_in)]
    command += ["--results", str(tmp_path / "results"), "--jobs", "1"]
    with subprocess.Popen(
        command, start_new_session=True, stderr=subprocess.PIPE, text=True
    ) as process:
        deadline = time.monotonic() + 120
        while not (tmp_path / "results").is_dir() and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(2)
        os.killpg(process.pid, signal.SIGINT)
        said = process.stderr.read()
    assert "of 3 are graded. The same command goes on from here." in said
    assert "Traceback" not in said
    assert process.returncode == 1
    assert list((tmp_path / "results").glob("package-*")) == []


def test_each_run_has_a_package_of_its_own(
    handed_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What another run or a build removes meanwhile costs no student anything."""
    packages = []

    def grade(job: grading.Job) -> None:
        packages.append(job.package)
        shutil.rmtree(assignments.BUILD / SLUG, ignore_errors=True)
        assert (job.package / "aecore" / "__init__.py").exists()
        record = {"student": job.student, "total": 0.0, "reason": "", "written": {}, "tests": []}
        job.result.parent.mkdir(parents=True, exist_ok=True)
        job.result.write_text(json.dumps(record | {"cells": [], "key": "", "digest": ""}))

    monkeypatch.setattr(grading, "grade", grade)
    for _ in range(2):
        grading.grade_class(SLUG, handed_in, tmp_path / "results", n_jobs=1)
    assert len(set(packages)) == 2
    assert not any(package.exists() for package in packages)


def test_a_package_that_is_not_there_costs_no_student_a_point(
    handed_in: Path, tmp_path: Path
) -> None:
    nowhere, limits = tmp_path / "nowhere", sandbox.Limits()
    job = grading.Job(
        "ada", handed_in / "ada.ipynb", SLUG, "", tmp_path / "results", nowhere, limits, False
    )
    with pytest.raises(FileNotFoundError, match="holds no aecore"):
        grading.grade(job)
    assert not job.result.exists()


def test_a_dask_cluster_of_two_workers_grades_the_same(handed_in: Path, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(Path.cwd())}
    script = tmp_path / "cluster.py"
    script.write_text(CLUSTER)
    with subprocess.Popen(
        [sys.executable, script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as cluster:
        try:
            address = cluster.stdout.readline().strip()
            command = [sys.executable, "-m", "tools.grading", SLUG, str(handed_in)]
            command += ["--results", str(tmp_path / "results"), "--dask", address]
            subprocess.run(command, check=True, env=environment)
        finally:
            cluster.stdin.close()
        executed = [int(count) for count in cluster.stdout.readline().split()]
    assert len(executed) == 2
    assert min(executed) > 0
    table = grades(tmp_path / "results" / "grades.csv")
    assert [row["total"] for row in table.values()] == ["20"] * 3


def test_without_a_sandbox_grading_refuses(
    handed_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "missing", lambda: "the program bwrap is not installed")
    with pytest.raises(
        ValueError, match=r"(?s)no sandbox can be had here: the program bwrap.*UNSAFE=1"
    ):
        grading.grade_class(SLUG, handed_in, tmp_path / "results")


def test_unsafe_grades_without_a_sandbox(handed_in: Path, tmp_path: Path) -> None:
    for name in ("grace.zip", "emmy"):
        path = handed_in / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    table = grades(grading.grade_class(SLUG, handed_in, tmp_path / "results", unsafe=True))
    assert table["ada"]["total"] == "20"


def test_what_is_no_class_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be a folder"):
        grading.submissions(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="no submission"):
        grading.submissions(tmp_path)
    (tmp_path / "ada.ipynb").touch()
    (tmp_path / "ada.zip").touch()
    with pytest.raises(ValueError, match="two submissions of the name ada"):
        grading.submissions(tmp_path)
    with pytest.raises(ValueError, match="there is no assignment 'vea'"):
        assignments.read("vea")


def test_a_page_shows_what_a_student_wrote_and_runs_none_of_it(tmp_path: Path) -> None:
    assignment = assignments.read(SLUG)
    script = "<script>alert(1)</script>"
    record = {"student": script, "total": 0.0, "reason": "", "cells": [[1, script]]}
    titles = [question.title for question in assignment.questions if question.manual]
    record["written"] = {titles[0]: script, titles[1]: "a good answer"}
    record["tests"] = [
        {
            "name": test.name,
            "about": script,
            "points": test.points,
            "earned": 0.0,
            "message": script,
        }
        for test in assignment.hidden
    ]
    marks = Marks({"q6": 7.5}, f"{script}, well done")
    grading.write_feedback(assignment, record, marks, tmp_path / "page.html")
    written.write_page(assignment, [record], tmp_path / "written.html")
    page, all_answers = ((tmp_path / n).read_text() for n in ("page.html", "written.html"))
    assert "<script" not in page + all_answers
    assert page.count("&lt;script&gt;") > 5
    assert "7.5 of 10 points" in page
    assert "a good answer" in page
    assert "a good answer" in all_answers
    assert "Four points: the ELBO is one number for two terms" in all_answers


def test_a_written_answer_is_found_wherever_it_stands_below_its_prompt() -> None:
    """In the cell that is given, in one added below, as code by a slip."""
    titles = [q.title for q in assignments.read(SLUG).questions if q.manual]
    make = nbformat.v4.new_markdown_cell
    cells = [
        make(f"<!-- BEGIN QUESTION -->\n\n## {titles[0]}\n\nprompt"),
        make(run_submission.UNANSWERED),
        make("## A heading of mine"),
        nbformat.v4.new_code_cell("because"),
        make(f"<!-- END QUESTION -->\n\n<!-- BEGIN QUESTION -->\n\n## {titles[1]}\n"),
        make(run_submission.UNANSWERED),
        make("<!-- END QUESTION -->"),
        make("an afterthought"),
    ]
    student = nbformat.v4.new_notebook(cells=cells)
    assert run_submission.written(student) == {titles[0]: "## A heading of mine\n\nbecause"}


def test_marks_reach_the_table_and_the_page_and_are_never_lost(
    handed_in: Path, tmp_path: Path
) -> None:
    results = tmp_path / "results"
    shutil.rmtree(handed_in / "emmy")
    grading.grade_class(SLUG, handed_in, results)
    marks = results / "marks.csv"
    assert marks.read_text() == "student,q6 (of 10),q7 (of 10),comment\nada,,,\ngrace,,,\n"
    given = "\ufeffstudent;comment;q6 (of 10);q7 (of 10)\nada;short, and right;7,5;\n"
    marks.write_text(given, encoding="utf-8")  # as a spreadsheet of another language saves it
    nbformat.write(notebook(ANSWER), handed_in / "emmy.ipynb")
    table = grades(grading.grade_class(SLUG, handed_in, results))
    assert marks.read_text(encoding="utf-8") == given + "emmy;;;\ngrace;;;\n"
    assert (table["ada"]["q6 (by hand, of 10)"], table["ada"]["q7 (by hand, of 10)"]) == ("7.5", "")
    assert table["ada"]["total"] == "20"
    assert table["emmy"]["q6 (by hand, of 10)"] == ""
    page = (results / "feedback" / "ada.html").read_text()
    assert "7.5 of 10 points" in page
    assert "short, and right" in page


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("ada,11,,", "ada has '11' for q6, and a number from 0 to 10 is expected"),
        ("ada,,good,", "ada has 'good' for q7"),
        ("ada,nan,,", "ada has 'nan' for q6"),
        ("ada,1,,\nada,2,,", "more than one row for ada"),
    ],
)
def test_marks_that_are_none(table: str, message: str, tmp_path: Path) -> None:
    marks = tmp_path / "marks.csv"
    marks.write_text(f"student,q6 (of 10),q7 (of 10),comment\n{table}\n")
    with pytest.raises(ValueError, match=message):
        written.read_marks(assignments.read(SLUG), marks)


def test_a_table_of_marks_without_its_columns(tmp_path: Path) -> None:
    marks = tmp_path / "marks.csv"
    marks.write_text("student,q6,comment\nada,1,\n")
    with pytest.raises(ValueError, match=r"no column 'q6 \(of 10\)'"):
        written.read_marks(assignments.read(SLUG), marks)
    marks.write_bytes("student,q6 (of 10),q7 (of 10),comment\nzoë,,,".encode("latin-1"))
    with pytest.raises(ValueError, match="must be saved as UTF-8"):
        written.read_marks(assignments.read(SLUG), marks)


def test_no_cell_of_the_table_is_a_formula(tmp_path: Path) -> None:
    assignment = assignments.read(SLUG)
    record = {"student": "=1+1", "total": 0.0, "reason": "=2+2", "tests": []}
    table = grading.write_grades(assignment, [record], {}, tmp_path / "grades.csv")
    (row,) = grades(table).values()
    assert row["student"] == "'=1+1"
    assert row["remark"] == "'=2+2"


@pytest.mark.parametrize(
    ("dotted", "message"),
    [
        ("aecore.nowhere.f", "no such module"),
        ("aecore.divergences.nothing", "there is no nothing in divergences.py"),
        ("aecore.models.vae.VAE", "no function or method"),
    ],
)
def test_what_cannot_be_switched_off(dotted: str, message: str, tmp_path: Path) -> None:
    shutil.copytree("aecore", tmp_path / "aecore")
    with pytest.raises(ValueError, match=message):
        assignments.switch_off(tmp_path, dotted, "because")


def test_what_is_switched_off_is_gone(tmp_path: Path) -> None:
    shutil.copytree("aecore", tmp_path / "aecore")
    assignments.switch_off(tmp_path, "aecore.models.vae.VAE.nll", "q1 asks for it")
    source = (tmp_path / "aecore" / "models" / "vae.py").read_text()
    assert "raise RuntimeError('aecore.models.vae.VAE.nll is switched off" in source
    before = Path("aecore/models/vae.py").read_text()
    assert len(source) < len(before)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (":points: 100\n", "", r"mine\.md: hidden test q1\.1 has no line :points:"),
        (":points: 100", ":points: 90", "must sum to 100, not 90"),
        ("name: q1", "name: q1\npoints: [", r"(?s)mine\.md: this is no YAML.*name: q1"),
        ("  switched_off:\n", "  switched_off: [\n", r"mine\.md: its front matter"),
        ("# END SOLUTION\n# BEGIN TESTS", "# BEGIN TESTS", "BEGIN TESTS stands before # END SOLU"),
        ("# END TESTS\n# END QUESTION", "# END QUESTION", "END QUESTION stands where nothing"),
        ("# END SOLUTION\n# END QUESTION\n", "# END SOLUTION\n", "no # END QUESTION after"),
        ("def call(", "def cell(", r"q1\.1 must define call"),
    ],
)
def test_a_slip_in_an_assignment_is_named(
    old: str, new: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = (assignments.SOURCES / "_template.md").read_text()
    assert old in source
    (tmp_path / "mine.md").write_text(source.replace(old, new))
    monkeypatch.setattr(assignments, "SOURCES", tmp_path)
    with pytest.raises(ValueError, match=message):
        assignments.read("mine")


def test_only_tensors_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = (assignments.SOURCES / "_template.md").read_text()
    (tmp_path / "mine.md").write_text(source.replace('return {"x":', 'return {"n": 3, "x":'))
    monkeypatch.setattr(assignments, "SOURCES", tmp_path)
    with pytest.raises(ValueError, match=r"q1\.1 draws n as int: a tensor is expected"):
        assignments.build("mine", tmp_path / "none.whl")


def test_the_template_is_a_working_assignment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(assignments.SOURCES / "_template.md", tmp_path / "mine.md")
    monkeypatch.setattr(assignments, "SOURCES", tmp_path)
    assignment = assignments.read("mine")
    assert [test.points for test in assignment.hidden] == [100]
    handed_in = tmp_path / "class"
    handed_in.mkdir()
    nbformat.write(assignments.master(assignment, hidden=False), handed_in / "reference.ipynb")
    table = grades(grading.grade_class("mine", handed_in, tmp_path / "results", n_jobs=1))
    assert table["reference"]["total"] == "100"
