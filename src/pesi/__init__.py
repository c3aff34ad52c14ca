"""Pesi-CNN: skin lesion classification in dermoscopy images with attention residual learning.

Example:
    >>> import pesi
    >>> model = pesi.create_model("pesi50", num_classes=3, attention="spatial")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pesi.version import __version__

if TYPE_CHECKING:
    from pesi.nn.models import create_model
    from pesi.predict.loading import load

__all__ = ["__version__", "create_model", "load"]


def __getattr__(name: str) -> Any:
    # PyTorch takes seconds to import: wait until somebody needs a network.
    if name == "create_model":
        from pesi.nn.models import create_model

        return create_model
    if name == "load":
        from pesi.predict.loading import load

        return load
    raise AttributeError(f"module 'pesi' has no attribute {name!r}")
