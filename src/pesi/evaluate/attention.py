"""Attention inside the lesion, summed up over a set of images with intervals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from pesi.datasets.splits import repeated_groups
from pesi.stats.intervals import mean_interval


def summarise_attention(
    shares: pd.DataFrame, records: pd.DataFrame, *, replicates: int = 2000, seed: int = 0
) -> dict[str, Any]:
    """Mean share of each map inside the lesion, and how far above the lesion's share of the area (paired).

    Args:
        shares: What `explain.localisation.localise` gives.
        records: Record table of the images; those that share a patient or a lesion are drawn as a whole.
        replicates: Bootstrap resamples.
        seed: Of the bootstrap.
    """
    area = shares["area"].to_numpy(np.float64)
    groups = repeated_groups(records.set_index("image_id", drop=False).loc[shares["image_id"]].reset_index(drop=True))
    maps = {}
    for name in shares.columns.drop(["image_id", "area"]):
        inside = shares[name].to_numpy(np.float64)
        rng = np.random.default_rng(seed)
        above, low, high = mean_interval(inside - area, replicates=replicates, rng=rng, groups=groups)
        maps[name] = {"inside": float(inside.mean()), "above": above, "above_ci": [low, high]}
    return {"images": len(shares), "area": float(area.mean()), "maps": maps}
