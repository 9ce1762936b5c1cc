"""How nbval compares a chapter's second execution with its first; a pytest plug-in."""

import pytest
from nbval import plugin

plugin.metadata_tags["skip-execution"] = "skip"  # Jupyter's tag, which nbval does not know


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Compare text exactly, but not what carries identifiers that differ every time."""
    for notebook in {item.parent for item in items if isinstance(item, plugin.IPyNbCell)}:
        notebook.skip_compare += ("stderr", "image/svg+xml", "text/html")
