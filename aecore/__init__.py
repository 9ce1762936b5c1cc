"""Autoencoders whose every equation is derived in the book and tested here.

Start with ``aecore.data.load``, a model from ``aecore.models`` and ``aecore.training.fit``.
"""

from aecore.saving import load_model, save

__all__ = ["load_model", "save"]
__version__ = "0.1.0"
