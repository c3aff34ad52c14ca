"""The gallery: all predictions on one page that opens offline, the most suspicious first, with what was attended to."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib import colormaps
from numpy.typing import NDArray

from pesi.explain.maps import Map, explain
from pesi.files import utf8, whole_file
from pesi.images.pixels import ImageSource, pixels
from pesi.predict.classifier import Classifier
from pesi.predict.prediction import Prediction, Refusal
from pesi.predict.tables import Row, refusal_of, set_text, warnings_of

_SIDE = 240  # pixels of a picture's longer side
_MAP_SIDE = 48  # of the map over it, which is smooth: the browser enlarges it
_QUALITY = 80


def gallery_pictures(classifier: Classifier, source: ImageSource, *, class_name: str) -> dict[str, str]:
    """One image for the gallery, as base64: "image" (a small JPEG) and "overlay" (PNG, half clear, to lie over it).

    The image is the first region that the classifier looks at; where that is the whole picture squeezed into a square,
    the picture in its own proportions. The overlay is the evidence for the class, weighted by the attention
    (`Explanation.blended`).

    Raises:
        ImageError: The image is refused.
    """
    whole = pixels(source)
    colours = _coloured(explain(classifier, whole, class_name=class_name).blended)
    preprocess = classifier.config.preprocess
    squeezed = (preprocess.regions[0], preprocess.geometry) == ("image", "squeeze")
    picture = PIL.Image.fromarray(whole if squeezed else classifier.regions[0](whole))
    picture.thumbnail((_SIDE, _SIDE), PIL.Image.Resampling.LANCZOS)
    size = (max(1, picture.width * _MAP_SIDE // _SIDE), max(1, picture.height * _MAP_SIDE // _SIDE))
    overlay = PIL.Image.fromarray(colours).resize(size, PIL.Image.Resampling.BOX)
    return {"image": _base64(picture, format="jpeg", quality=_QUALITY), "overlay": _base64(overlay, format="png")}


def write_gallery(
    path: str | Path,
    rows: Iterable[Row],
    *,
    count: int,
    levels: Sequence[str],
    classes: Sequence[str],
    bundle: str,
) -> None:
    """Write the page, a row at a time: whole or not at all.

    Args:
        path: The .html file.
        rows: Of each image, as `Prediction.to_dict` or `Refusal.to_dict` gives it, in the page's order; with
            `pictures` (of `gallery_pictures`) and `lesion_id` where there are any.
        count: How many rows.
        levels: Of the triage rule, the most urgent first.
        classes: Names of the probabilities.
        bundle: What they were predicted by.

    Raises:
        StorageError: The file cannot be written.
    """
    environment = Environment(
        loader=PackageLoader("pesi.explain"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    page = environment.get_template("gallery.html.j2").generate(
        cards=_cards(rows, levels), count=count, levels=list(levels), classes=list(classes), bundle=bundle
    )
    with whole_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines(utf8(piece) for piece in page)


def save_gallery(path: str | Path, results: Sequence[Prediction | Refusal], classifier: Classifier) -> None:
    """The page of what `classifier` predicted of files, the most suspicious first; what has no file has no picture.

    Raises:
        ImageError: A file is no longer what it was.
        StorageError: The page cannot be written.
    """
    ordered = sorted(results, key=lambda result: gallery_order(result.to_dict()))
    rows = (
        result.to_dict()
        if isinstance(result, Refusal) or result.path is None
        else result.to_dict() | {"pictures": gallery_pictures(classifier, result.path, class_name=result.most_probable)}
        for result in ordered
    )
    config = classifier.config
    write_gallery(
        path,
        rows,
        count=len(ordered),
        levels=[level.level for level in config.triage],
        classes=config.outputs,
        bundle=config.bundle_id,
    )


def gallery_order(row: Row) -> tuple[int, float]:
    """What to sort by: answered images by their malignant probability, then those without a result, then unreadable."""
    if "refused" in row:
        return 2, 0.0
    return (1, 0.0) if row["no_result"] else (0, -(row["malignant"] or 0.0))


def _cards(rows: Iterable[Row], levels: Sequence[str]) -> Iterator[dict[str, Any]]:
    """What the template shows of each row."""
    for row in rows:
        reason = refusal_of(row)
        values = {} if reason else row["probabilities"]
        yield {
            "id": row["image"],
            "path": row["path"] or "",
            "lesion": row.get("lesion_id"),
            "pictures": row.get("pictures", {}),
            "state": "unread" if "refused" in row else "no result" if reason else "answered",
            "reason": reason,
            "probabilities": sorted(values.items(), key=lambda item: -item[1]),
            "diagnosis": max(values, key=values.__getitem__, default=""),
            "malignant": row.get("malignant") if values else None,
            "triage": row.get("triage") if values else None,
            "urgency": levels.index(row["triage"]) if values and row.get("triage") in levels else None,
            "triage_reason": row.get("triage_reason", "") if values else "",
            "set": set_text(row) if values else "",
            "warnings": warnings_of(row),
        }


def _coloured(values: Map) -> NDArray[np.uint8]:
    """A map (S, S) in colours, (S, S, 4); where it says nothing, the skin shows through."""
    strength = np.clip(values / max(float(np.quantile(values, 0.995)), 1e-12), 0, 1)
    colours = colormaps["inferno"](strength)
    colours[..., 3] = 0.75 * strength**0.7
    return np.asarray(colours * 255, np.uint8)


def _base64(picture: PIL.Image.Image, **options: Any) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, **options)
    return base64.b64encode(buffer.getvalue()).decode()
