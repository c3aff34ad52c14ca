"""Answers that no network gave, of images that do not exist."""

from __future__ import annotations

import numpy as np

from pesi.datasets.records import record_table
from pesi.evaluate.audit.data import AuditData
from pesi.taxonomy import TASKS

CODES = ("MEL", "SK", "NV")


def made_up_data(classes, logits, probabilities, *, fitted_on=False, images_a_lesion=None):
    """ISIC 2017's task; classes (N,), logits (N, V, K), probabilities (N, K); no pictures, no masks."""
    count = len(classes)
    rows = [
        {"image_id": f"i{i}", "path": f"{i}.jpg", "diagnosis": CODES[k], "split": "val", "source": "made up"}
        | ({"lesion_id": f"lesion {i // images_a_lesion}"} if images_a_lesion else {})
        for i, k in enumerate(classes)
    ]
    return AuditData(
        "made-up answers",
        record_table(rows),
        TASKS["isic2017"],
        classes,
        np.zeros((count, 1, 1, 3), np.uint8),
        np.zeros((count, 1, 1), bool),
        np.zeros(count, bool),
        logits,
        np.zeros((count, 2), np.float32),
        probabilities,
        fitted_on,
    )
