"""Predictions as a notebook shows them: picture, bars, prediction sets, triage, refusals; no script, no request."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from typing import Any

import cv2

from pesi.errors import ImageError
from pesi.images.decode import decode_image
from pesi.images.transforms import Image, resize

_SIDE = 220  # pixels of a picture: twice what is shown, for fine screens


def thumbnail(image: Image) -> bytes:
    """A small JPEG of an image (H, W, 3)."""
    scale = min(1.0, _SIDE / max(image.shape[:2]))
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    small = cv2.cvtColor(resize(image, height, width), cv2.COLOR_RGB2BGR)
    return bytes(cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 80])[1])


def cards_html(results: Iterable[tuple[Mapping[str, Any], bytes]], total: str | None = None) -> str:
    """A card an image.

    Args:
        results: `to_dict()` of a Prediction or Refusal, and a thumbnail; where that is empty, the file is looked at.
        total: A line above them.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined  # slow to import

    environment = Environment(loader=PackageLoader("pesi.predict"), autoescape=True, undefined=StrictUndefined)
    cards = [
        {
            "refused": "",
            "bundle": "",
            **values,
            "picture": base64.b64encode(picture or _picture(values["path"])).decode(),
            "warnings": [found["reason"] for found in values.get("verdicts", ()) if found["level"] == "warn"],
        }
        for values, picture in results
    ]
    return environment.get_template("notebook.html.j2").render(cards=cards, total=total)


def _picture(path: str | None) -> bytes:
    """A thumbnail of a file; empty where it cannot be read (any more)."""
    try:
        return b"" if path is None else thumbnail(decode_image(path, min_side=_SIDE))
    except ImageError:
        return b""
