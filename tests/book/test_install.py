"""pyproject.toml, requirements.lock, environment.yml, Makefile and workflow agree."""

import re
import tomllib
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

PROJECT = tomllib.loads(Path("pyproject.toml").read_text())["project"]
DEPENDENCIES = [*PROJECT["dependencies"], *chain(*PROJECT["optional-dependencies"].values())]
LOCK = Path("requirements.lock").read_text().splitlines()
WORKFLOW: dict[str, Any] = yaml.safe_load(Path(".github/workflows/ci.yml").read_text())
MAKE_TARGETS = set(re.findall(r"^([a-z-]+):", Path("Makefile").read_text(), re.M))


def make_calls(text: str) -> list[str]:
    """The targets that a script makes."""
    return re.findall(r"^\s*(?:- run: |run: )?make ([a-z-]+)", text, re.M)


@pytest.mark.parametrize("line", LOCK)
def test_lock_line_pins_one_version_and_names_no_address(line: str) -> None:
    requirement = Requirement(line)

    assert re.fullmatch(r"==[\w.+!]+", str(requirement.specifier))
    assert requirement.url is None
    assert "://" not in line


@pytest.mark.parametrize("dependency", DEPENDENCIES)
def test_lock_satisfies_every_dependency(dependency: str) -> None:
    wanted = Requirement(dependency)
    pins = [
        pin
        for pin in map(Requirement, LOCK)
        if canonicalize_name(pin.name) == canonicalize_name(wanted.name)
    ]

    assert pins
    for pin in pins:
        assert wanted.specifier.contains(str(pin.specifier).removeprefix("=="), prereleases=True)


def test_conda_installs_from_the_lock() -> None:
    environment = yaml.safe_load(Path("environment.yml").read_text())
    *conda, pip = environment["dependencies"]

    assert [Requirement(entry.replace("=", "==", 1)).name for entry in conda] == ["python", "pip"]
    assert pip == {"pip": ["-r requirements.lock", "-e ."]}
    (python,) = [entry for entry in conda if entry.startswith("python")]
    assert SpecifierSet(PROJECT["requires-python"]).contains(python.removeprefix("python="))


def test_workflow_runs_every_python_that_the_project_promises() -> None:
    promised = SpecifierSet(PROJECT["requires-python"])
    versions = WORKFLOW["jobs"]["locked"]["strategy"]["matrix"]["python"]

    assert versions == [f"3.{minor}" for minor in range(30) if f"3.{minor}" in promised]


@pytest.mark.parametrize("script", [".ci/run", ".github/workflows/ci.yml"])
def test_continuous_integration_calls_what_a_person_would(script: str) -> None:
    called = make_calls(Path(script).read_text())

    assert set(called) <= MAKE_TARGETS
    assert [call for call in called if call not in ("data", "lock")][:4] == [
        "lint",
        "test",
        "book",
        "test-pages",
    ]
