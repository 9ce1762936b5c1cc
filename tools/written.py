"""Written answers: laid side by side for whoever reads them, and the marks that are given."""

import csv
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jinja2

from tools.assignments import Assignment, Question

TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True
)


@dataclass(frozen=True)
class Marks:
    """What a human gave one student: points by question, as far as there are any."""

    points: dict[str, float] = field(default_factory=dict)
    comment: str = ""


def column(question: Question) -> str:
    """The heading of a question's marks."""
    return f"{question.name} (of {question.points:g})"


def no_formula(text: str) -> str:
    """A text that no spreadsheet takes for a formula."""
    return f"'{text}" if text[:1] in tuple("=+-@\t\r") else text


def read_marks(assignment: Assignment, path: Path) -> dict[str, Marks]:
    """The table of marks, by student; empty if there is none yet.

    Raises:
        ValueError: If it is not what :func:`extend_marks` writes, with numbers added; the message
            says where.
    """
    marks = {}
    for row in _rows(assignment, path):
        points = {}
        for question in (q for q in assignment.questions if q.manual):
            text = (row[column(question)] or "").strip()
            if not text:
                continue
            try:
                points[question.name] = float(text.replace(",", "."))
            except ValueError:
                points[question.name] = -1.0
            if not 0 <= points[question.name] <= question.points:
                raise ValueError(
                    f"{path}: {row['student']} has {text!r} for {question.name}, and a number "
                    f"from 0 to {question.points:g} is expected, or nothing"
                )
        marks[row["student"]] = Marks(points, (row["comment"] or "").strip())
    return marks


def _rows(assignment: Assignment, path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{path} must be saved as UTF-8") from None
    reader = csv.DictReader(io.StringIO(text), delimiter=_delimiter(text))
    rows = list(reader)
    for name in _header(assignment):
        if name not in (reader.fieldnames or []):
            raise ValueError(f"{path} has no column {name!r}: it had, when it was made")
    students = [row["student"] for row in rows]
    if twice := sorted({name for name in students if students.count(name) > 1}):
        raise ValueError(f"{path} has more than one row for {', '.join(twice)}")
    return rows


def _delimiter(text: str) -> str:
    """Spreadsheets of some languages write semicolons."""
    header = text.partition("\n")[0]
    return ";" if header.count(";") > header.count(",") else ","


def _header(assignment: Assignment) -> list[str]:
    return ["student", *(column(q) for q in assignment.questions if q.manual), "comment"]


def extend_marks(assignment: Assignment, students: Sequence[str], path: Path) -> None:
    """Add a row for each student who has none; what is in the table stays as it is."""
    known = {row["student"] for row in _rows(assignment, path)}
    new = [no_formula(student) for student in students if no_formula(student) not in known]
    if not new:
        return
    header = _header(assignment)
    text = path.read_text(encoding="utf-8") if path.exists() else ",".join(header) + "\n"
    table = io.StringIO()
    delimiter = _delimiter(text)
    header = next(csv.reader(io.StringIO(text.lstrip("\ufeff")), delimiter=delimiter))
    writer = csv.DictWriter(table, header, restval="", delimiter=delimiter, lineterminator="\n")
    writer.writerows({"student": name} for name in new)
    replace_text(path, text + ("" if text.endswith("\n") else "\n") + table.getvalue())


def write_page(assignment: Assignment, records: Sequence[Mapping], path: Path) -> None:
    """The page for whoever reads the written answers: all students', question by question."""
    page = TEMPLATES.get_template("written.html.j2").render(
        title=assignment.title,
        subject="Written answers",
        marks=path.with_name("marks.csv").name,
        questions=[question for question in assignment.questions if question.manual],
        records=records,
    )
    replace_text(path, page)


def replace_text(path: Path, text: str) -> None:
    """Write a file as a whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8", newline="")
    os.replace(partial, path)
