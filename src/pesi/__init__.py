"""Pesi-CNN: skin lesion classification in dermoscopy images with attention residual learning.

Example:
    >>> import pesi
    >>> model = pesi.create_model("pesi50", num_classes=3, attention="spatial")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pesi.errors import (
    BundleError,
    ChoiceError,
    DataError,
    ImageError,
    PesiError,
    RecipeError,
    SourceError,
    StorageError,
)
from pesi.version import __version__

if TYPE_CHECKING:
    from pesi.datasets.readers import read_dataset
    from pesi.nn.models import create_model, list_models
    from pesi.predict.classifier import Classifier
    from pesi.predict.loading import load

__all__ = [
    "BundleError",
    "ChoiceError",
    "Classifier",
    "DataError",
    "ImageError",
    "PesiError",
    "RecipeError",
    "SourceError",
    "StorageError",
    "__version__",
    "create_model",
    "list_models",
    "load",
    "read_dataset",
]

# PyTorch takes seconds to import: these wait until somebody asks for them.
_LATER = {
    "Classifier": "pesi.predict.classifier",
    "create_model": "pesi.nn.models",
    "list_models": "pesi.nn.models",
    "load": "pesi.predict.loading",
    "read_dataset": "pesi.datasets.readers",
}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(import_module(_LATER[name]), name)
    raise AttributeError(f"module 'pesi' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
