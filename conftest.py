"""Doctests of the package see torch and matplotlib's silent backend; they run in float32."""

from typing import Any

import matplotlib
import pytest
import torch

matplotlib.use("agg")


@pytest.fixture(autouse=True)
def _doctest_names(doctest_namespace: dict[str, Any]) -> None:
    doctest_namespace["torch"] = torch
