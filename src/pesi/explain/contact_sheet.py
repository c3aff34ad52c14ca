"""A contact sheet: an image and its similar cases, each with its diagnosis and similarity."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pesi.files import utf8
from pesi.images.transforms import Image, fit_square
from pesi.predict.prediction import Similar
from pesi.taxonomy import DIAGNOSES

_SIDE = 320  # pixels of a picture on the sheet
_COLUMNS = 4


def contact_sheet_png(query: Image, similar: Sequence[tuple[Similar, Image | None]], *, title: str) -> bytes:
    """Draw an image and its similar cases as one PNG, the most similar first.

    Args:
        query: The image that was asked about, uint8 sRGB (H, W, 3).
        similar: Its similar cases with their pictures; None for one that is not there any more.
        title: What the image is called.
    """
    panels = 1 + len(similar)
    columns = min(panels, _COLUMNS)
    rows = -(-panels // columns)
    figure = Figure(figsize=(2.9 * columns, 3.3 * rows + 0.4), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    heading = f"{title}: what the network finds most alike (no proof of a diagnosis)"
    figure.suptitle(utf8(heading), fontsize=9, parse_math=False)  # names of files may hold a $
    _panel(figure.add_subplot(rows, columns, 1), query, "the image asked about")
    for index, (case, picture) in enumerate(similar):
        known = DIAGNOSES[case.diagnosis].name if case.diagnosis in DIAGNOSES else case.diagnosis
        text = f"{known}\n{case.image_id}, similarity {case.similarity:.3f}"
        _panel(figure.add_subplot(rows, columns, index + 2), picture, text)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _panel(axes: Axes, picture: Image | None, text: str) -> None:
    if picture is None:
        axes.imshow(np.full((_SIDE, _SIDE, 3), 235, np.uint8))
        axes.text(
            _SIDE / 2, _SIDE / 2, "the file is not there\nor cannot be read", ha="center", va="center", fontsize=8
        )
    else:
        axes.imshow(fit_square(picture, _SIDE, "center_crop"))
    axes.set_title(utf8(text), fontsize=8, parse_math=False)
    axes.set_xticks([])
    axes.set_yticks([])
