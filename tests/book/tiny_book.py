"""A throw-away book, small enough to execute in seconds."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import nbformat

REPOSITORY = Path(__file__).parents[2]

TOC = """\
format: jb-book
root: book/index
parts:
- caption: Part
  numbered: 1
  chapters:
  - file: book/first
  - file: book/second
"""

CHAPTER = """\
---
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---

# {title}

What it needs:

```{{code-cell}} python3
from aecore.{slug} import answer
```

```{{code-cell}} python3
:tags: [parameters]

profile = "book"
dataset = "auto"
```

## Check the maths

The answer:

```{{code-cell}} python3
print(profile, answer())
```
"""


@dataclass
class TinyBook:
    """Two chapters, each with a module of its own, in a folder laid out like the repository."""

    root: Path

    def command(self, *arguments: str) -> list[str]:
        """The command line of the pipeline."""
        return [sys.executable, "-m", "tools.book", *arguments]

    @property
    def environment(self) -> dict[str, str]:
        """The pipeline comes from the repository, ``aecore`` from the working directory."""
        return os.environ | {"PYTHONPATH": str(REPOSITORY)}

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the pipeline to its end."""
        return subprocess.run(
            self.command(*arguments),
            cwd=self.root,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=120,
        )

    def append_cell(self, slug: str, code: str) -> None:
        """Add a code cell to a chapter."""
        with (self.root / "book" / f"{slug}.md").open("a") as chapter:
            chapter.write(f"\nMore:\n\n```{{code-cell}} python3\n{code}\n```\n")

    def executed(self, slug: str, profile: str = "smoke") -> Path:
        """Where an executed chapter belongs."""
        return self.root / "_build" / "executed" / profile / f"{slug}.ipynb"

    def printed(self, slug: str) -> str:
        """Everything that an executed chapter printed."""
        cells = nbformat.read(self.executed(slug), as_version=4).cells
        return "".join(
            output.text for cell in cells for output in cell.get("outputs", []) if "text" in output
        )


def make_tiny_book() -> TinyBook:
    """Write a tiny book into the working directory."""
    Path("book").mkdir()
    Path("aecore").mkdir()
    Path("_toc.yml").write_text(TOC)
    Path("requirements.lock").write_text("torch==2.8.0\n")
    Path("book", "index.md").write_text("# Tiny book\n\n{doc}`first` and {doc}`second`.\n")
    Path("book", "references.bib").touch()
    shutil.copytree(REPOSITORY / "book" / "static", "book/static")
    shutil.copy(REPOSITORY / "_config.yml", ".")
    Path("aecore", "__init__.py").touch()
    Path("aecore", "data.py").write_text("def available(name): return False\n")
    for slug in ("first", "second"):
        Path("book", f"{slug}.md").write_text(CHAPTER.format(title=slug.title(), slug=slug))
        Path("aecore", f"{slug}.py").write_text("def answer():\n    return 42\n")
    return TinyBook(Path.cwd())
