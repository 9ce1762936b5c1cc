"""What the sources say about the book, and the appendix pages generated from that.

Nothing here needs an executed notebook but :func:`results_page`. All paths are relative to the
repository's root, which is the working directory.
"""

import ast
import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import yaml

TOC = Path("_toc.yml")
API_PAGE = Path("book/appendix/api.md")
LEDGER = Path("book/appendix/results.toml")

LABEL_LINE = re.compile(r"^```+\{math\}[^\n]*\n(?:[ \t]*:[^\n]*\n)*?[ \t]*:label:[ \t]*(\S+)", re.M)
EQ_ROLE = re.compile(r"\{eq\}`(?:[^`<]*<)?([^`>]+)>?`|:eq:`(?:[^`<]*<)?([^`>]+)>?`")
IMPLEMENTS = re.compile(r"Implements\s+((?::eq:`[^`]+`(?:,?\s+and\s+|,\s+)?)+)")
TESTED = re.compile(r"\s*(eq-[\w-]+(?:,\s*eq-[\w-]+)*)")


@dataclass(frozen=True)
class Function:
    """A function or class of ``aecore`` and the equations it implements."""

    name: str  # dotted, from ``aecore``
    role: str  # the Sphinx role that links to it
    on_api_page: bool
    labels: tuple[str, ...]

    def link(self) -> str:
        """Its name in MyST: a link where the API page shows it."""
        return f"{{py:{self.role}}}`~{self.name}`" if self.on_api_page else f"`{self.name}`"


@dataclass(frozen=True)
class Equation:
    """A labelled equation and everything that keeps it honest."""

    label: str
    chapter: str
    functions: tuple[Function, ...]
    tests: tuple[str, ...]  # pytest node ids
    checked: bool  # cited in its chapter's "Check the maths"


def toc_files(toc: dict[str, Any]) -> list[str]:
    """All files of a table of contents, in order and without suffix; the root comes first."""
    entries = [*toc.get("chapters", [])]
    for part in toc.get("parts", []):
        entries += part["chapters"]
    return [toc["root"], *(entry["file"] for entry in entries)]


def chapters() -> dict[str, Path]:
    """The executable chapters, slug to source, in the order of the table of contents."""
    sources = [Path(f"{file}.md") for file in toc_files(yaml.safe_load(TOC.read_text()))]
    return {
        source.stem: source
        for source in sources
        if source.exists() and "```{code-cell}" in source.read_text()
    }


def labels(text: str) -> list[str]:
    """The labels of a page's equations, in order."""
    return LABEL_LINE.findall(text)


def cited_labels(text: str) -> set[str]:
    """The equations that a page or a docstring refers to."""
    return {myst or rest for myst, rest in EQ_ROLE.findall(text)}


def section(text: str, title: str) -> str:
    """The section of a page whose second-level heading begins so; empty where there is none."""
    match = re.search(rf"^## {re.escape(title)}[^\n]*\n(.*?)(?=^## |\Z)", text, re.M | re.S | re.I)
    return match[1] if match else ""


def definitions(tree: ast.Module) -> Iterator[tuple[str, ast.AST, str]]:
    """Dotted name, node and docstring of a module's functions, classes and methods."""

    def walk(node: ast.AST, prefix: str) -> Iterator[tuple[str, ast.AST, str]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.ClassDef):
                name = f"{prefix}{child.name}"
                yield name, child, ast.get_docstring(child) or ""
                if isinstance(child, ast.ClassDef):
                    yield from walk(child, f"{name}.")

    return walk(tree, "")


def public_names(tree: ast.Module) -> set[str] | None:
    """A module's ``__all__``, or None where it has none."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
    return None


def functions() -> list[Function]:
    """Everything in ``aecore`` whose docstring says that it implements an equation."""
    api_page = API_PAGE.read_text() if API_PAGE.exists() else ""
    found = []
    for path in sorted(Path("aecore").rglob("*.py")):
        module = ".".join(path.with_suffix("").parts)
        tree = ast.parse(path.read_text())
        public = public_names(tree)
        shown = re.search(rf"automodule:: {re.escape(module)}$", api_page, re.M) is not None
        for name, node, docstring in definitions(tree):
            implemented = tuple(
                label
                for sentence in IMPLEMENTS.findall(docstring)
                for label in re.findall(r"`([^`]+)`", sentence)
            )
            if not implemented:
                continue
            first, *rest = name.split(".")
            hidden = any(part.startswith("_") for part in (first, *rest))
            exported = public is None or first in public
            role = "class" if isinstance(node, ast.ClassDef) else "meth" if rest else "func"
            on_page = shown and exported and not hidden
            found.append(Function(f"{module}.{name}", role, on_page, implemented))
    return found


def tests() -> dict[str, list[str]]:
    """The tests of each equation: those whose docstring begins with its label."""
    found: dict[str, list[str]] = {}
    for path in sorted(Path("tests").rglob("test_*.py")):
        for name, _, docstring in definitions(ast.parse(path.read_text())):
            if match := TESTED.match(docstring):
                for label in re.split(r",\s*", match[1]):
                    test = f"{path.as_posix()}::{name.replace('.', '::')}"
                    found.setdefault(label, []).append(test)
    return found


def equations() -> list[Equation]:
    """Every labelled equation of the chapters, in the book's order."""
    implementing, testing = functions(), tests()
    found = []
    for slug, source in chapters().items():
        text = source.read_text()
        checked = cited_labels(section(text, "Check the maths"))
        for label in labels(text):
            by = tuple(function for function in implementing if label in function.labels)
            found.append(Equation(label, slug, by, tuple(testing.get(label, ())), label in checked))
    return found


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    cells = [[cell.replace("|", r"\|") for cell in line] for line in lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)


def equations_page(slugs: Sequence[str]) -> str:
    """The appendix "Equations": equation, chapter, function, test.

    Args:
        slugs: The chapters that are in the book being rendered.
    """
    rows = []
    for equation in equations():
        if equation.chapter in slugs:
            by = ", ".join(function.link() for function in equation.functions)
            tested = ", ".join(f"`{test.split('::', 1)[1]}`" for test in equation.tests)
            checked = "checked in the chapter" if equation.checked else ""
            rows.append([
                f"{{eq}}`{equation.label}`",
                f"{{doc}}`../{equation.chapter}`",
                by or "—",
                "; ".join(filter(None, [tested, checked])) or "—",
            ])  # fmt: skip
    return (
        "# Equations\n\n"
        "Every labelled equation, the code that implements it, and what checks it. "
        "This page is generated from the chapters, the docstrings and the tests.\n\n"
        + table(["equation", "chapter", "code", "checked by"], rows)
    )


def glued_values(notebook: nbformat.NotebookNode) -> dict[str, str]:
    """The values that a chapter glued, by key."""
    values = {}
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            key = output.get("metadata", {}).get("scrapbook", {}).get("name")
            if key is None:
                continue
            text = next(text for mime, text in output.data.items() if mime.endswith("text/plain"))
            is_text = text[0] in "'\""  # a glued string arrives as its repr
            values[key] = str(ast.literal_eval(text)) if is_text else text
    return values


def results_page(executed: dict[str, Path], profile: str, *, complete: bool) -> str:
    """The appendix "Results": our numbers beside the published ones, with their conditions.

    Args:
        executed: The executed notebook of each chapter in the book being rendered.
        profile: The profile it was executed under.
        complete: Whether a value that no chapter gives is an error.

    Raises:
        ValueError: If ``complete`` and a row of the ledger names a key that no chapter glues.
    """
    ledger = tomllib.loads(LEDGER.read_text())["result"] if LEDGER.exists() else []
    glued = {
        slug: glued_values(nbformat.read(path, as_version=4)) for slug, path in executed.items()
    }
    rows = []
    for row in ledger:
        keys = [row[name] for name in ("key", "error") if name in row]
        values = glued.get(row["chapter"], {})
        if absent := [key for key in keys if key not in values]:
            if complete:
                raise ValueError(f"{LEDGER}: chapter {row['chapter']!r} glues no {absent[0]!r}")
            value = "—"
        else:
            value = " ± ".join(values[key] for key in keys)
        in_book = row["chapter"] in executed
        published = row.get("published", "—")
        if "source" in row:
            published += f" {{cite:p}}`{row['source']}`"
        rows.append([
            f"{{doc}}`../{row['chapter']}`" if in_book else row["chapter"],
            row["what"],
            value,
            row["conditions"],
            published,
            "yes" if row["comparable"] else "no",
        ])  # fmt: skip
    head = ["chapter", "what is measured", "ours", "conditions", "published", "comparable"]
    body = table(head, rows) if rows else "No results are recorded yet.\n"
    return (
        f"# Results\n\nOur values come from the chapters, executed under the `{profile}` profile. "
        "A published value is comparable only where its conditions are ours.\n\n" + body
    )
