"""Every assignment, built and graded: the reference, the untouched version, classic bugs."""

import copy
import json
import re
import shutil
import tomllib
import zipfile
from pathlib import Path

import nbformat
import pytest

from tools import assignments, grading, sandbox

SLUGS = assignments.slugs()
BUGS = {
    slug: tomllib.loads(Path(__file__).with_name(f"{slug}.toml").read_text())["bug"]
    for slug in SLUGS
}


@pytest.fixture(scope="module")
def built() -> dict[str, Path]:
    """All that is handed out; made once for all tests, and left in _build."""
    assignments.main([])
    return {slug: assignments.BUILD / slug for slug in SLUGS}


@pytest.fixture(scope="module")
def graded(built: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    """What the grader says of each submission, by assignment and name."""
    assert not sandbox.missing()
    records = {}
    for slug, folder in built.items():
        handed_in, results = tmp_path_factory.mktemp(slug), tmp_path_factory.mktemp("results")
        reference = nbformat.read(folder / "solution" / f"{slug}.ipynb", as_version=4)
        nbformat.write(reference, handed_in / "reference.ipynb")
        shutil.copy(folder / "student" / f"{slug}.ipynb", handed_in / "untouched.ipynb")
        for bug in BUGS[slug]:
            wrong = copy.deepcopy(reference)
            (cell,) = [cell for cell in wrong.cells if bug["old"] in cell.source]
            cell.source = cell.source.replace(bug["old"], bug["new"])
            nbformat.write(wrong, handed_in / f"{bug['name']}.ipynb")
        grading.grade_class(slug, handed_in, results)
        files = sorted((results / "submissions").iterdir())
        records[slug] = {path.stem: json.loads(path.read_text()) for path in files}
    return records


@pytest.mark.parametrize("slug", SLUGS)
def test_the_reference_solution_scores_100(slug: str, graded: dict) -> None:
    record = graded[slug]["reference"]
    assert [test for test in record["tests"] if test["message"]] == []
    assert record["total"] == 100


@pytest.mark.parametrize("slug", SLUGS)
def test_the_untouched_version_scores_nothing(slug: str, graded: dict) -> None:
    record = graded[slug]["untouched"]
    assert record["total"] == 0
    assert all(test["message"] for test in record["tests"])


@pytest.mark.parametrize(
    ("slug", "bug"),
    [(s, b) for s in SLUGS for b in BUGS[s]],
    ids=lambda v: v if isinstance(v, str) else v["name"],
)
def test_a_classic_bug_costs_its_question_and_gets_its_hint(
    slug: str, bug: dict, graded: dict
) -> None:
    record = graded[slug][bug["name"]]
    assert record["total"] == bug["total"]
    assert any(bug["hint"] in test["message"] for test in record["tests"])


@pytest.mark.parametrize("slug", SLUGS)
def test_there_are_three_bugs_five_to_eight_questions_and_a_written_answer(slug: str) -> None:
    questions = assignments.read(slug).questions
    assert len(BUGS[slug]) >= 3
    assert 5 <= len(questions) <= 8
    assert any(question.manual for question in questions)
    for number, question in enumerate(questions, start=1):
        assert question.name == f"q{number}"
        assert question.title.startswith(f"Question {number}: ")


@pytest.mark.parametrize("slug", SLUGS)
def test_the_student_version_holds_no_solution_and_no_hidden_test(slug: str, built: dict) -> None:
    assignment = assignments.read(slug)
    block = re.compile(r"# BEGIN SOLUTION.*?# END SOLUTION|^[^\n]*# SOLUTION$", flags=re.M | re.S)
    hidden, shown, solving = [test.source for test in assignment.hidden], "", False
    for cell in assignment.notebook.cells:
        if cell.cell_type == "raw":
            solving = cell.source.startswith("# BEGIN SOLUTION")
        elif cell.cell_type == "markdown" and solving:
            hidden.append(cell.source)
        else:
            hidden += block.findall(cell.source)
            shown += block.sub("", cell.source) + "\n"
    lines = {line.strip() for text in hidden for line in text.splitlines()}
    secrets = {line for line in lines if len(line) > 20 and line not in shown}
    student = built[slug] / "student"
    assert len(secrets) > 30
    texts = {path.name: path.read_bytes() for path in student.glob("*[!l]")}  # not the wheel
    with zipfile.ZipFile(built[slug] / f"{slug}-student.zip") as archive:
        assert set(archive.namelist()) == {f"{slug}/{path.name}" for path in student.iterdir()}
        texts |= {f"zip/{n}": archive.read(n) for n in archive.namelist() if not n.endswith(".whl")}
    for name, text in texts.items():
        found = [line for line in secrets if json.dumps(line)[1:-1].encode() in text]
        assert found == [], name
        assert b"hidden-test" not in text
        assert b"hidden=True" not in text
