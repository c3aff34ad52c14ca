"""Pesi-CNN: skin lesion classification in dermoscopy images with attention residual learning.

Example:
    >>> import pesi
    >>> pesi.load().predict("mole.jpg")  # doctest: +SKIP
    <Prediction mole: melanoma 0.082, seborrheic_keratosis 0.005, nevus 0.913; triage: follow up>
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
    from pesi.evaluate.scoring import evaluate
    from pesi.explain.maps import explain_image as explain
    from pesi.nn.models import create_model, list_models
    from pesi.predict.classifier import Classifier
    from pesi.predict.loading import load
    from pesi.predict.prediction import Prediction, Refusal
    from pesi.predict.predictions import Predictions
    from pesi.predict.segmenter import LesionSegmenter, segment

__all__ = [
    "BundleError",
    "ChoiceError",
    "Classifier",
    "DataError",
    "ImageError",
    "LesionSegmenter",
    "PesiError",
    "Prediction",
    "Predictions",
    "RecipeError",
    "Refusal",
    "SourceError",
    "StorageError",
    "__version__",
    "create_model",
    "evaluate",
    "explain",
    "list_models",
    "load",
    "read_dataset",
    "segment",
]

# PyTorch takes seconds to import: these wait until somebody asks for them.
_LATER = {
    "Classifier": "pesi.predict.classifier",
    "LesionSegmenter": "pesi.predict.segmenter",
    "Prediction": "pesi.predict.prediction",
    "Predictions": "pesi.predict.predictions",
    "Refusal": "pesi.predict.prediction",
    "create_model": "pesi.nn.models",
    "list_models": "pesi.nn.models",
    "load": "pesi.predict.loading",
    "read_dataset": "pesi.datasets.readers",
    "segment": "pesi.predict.segmenter",
}
_ROOMS = ("evaluate", "explain")  # rooms that can be called


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return import_module(f"pesi.{name}")
    if name in _LATER:
        return getattr(import_module(_LATER[name]), name)
    raise AttributeError(f"module 'pesi' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
