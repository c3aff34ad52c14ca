"""The choice of a novelty score on some families of outliers, read on the others."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from benchmarks.conftest import BENCHMARKS

sys.path.insert(0, str(BENCHMARKS / "novelty"))

from scores import crossed_choice


def test_the_choice_never_sees_the_family_it_is_read_on() -> None:
    # Score "one" is perfect on every family but the last, "all" good on each; "odd" wins only by the last family.
    own = np.linspace(0, 1, 50)
    names = [f"f{i}" for i in range(5)]
    good, bad, fair = np.full(4, 2.0), np.full(4, -1.0), np.full(4, 0.9)
    candidates = {
        "fair": ((own,), dict.fromkeys(names, fair)),
        "odd": ((own,), {name: good if name == "f4" else bad for name in names}),
    }
    read, chosen = crossed_choice(candidates, folds=5, rng=np.random.default_rng(0))
    assert set(chosen.values()) == {"fair"}
    assert read["f4"][0] == "fair"
    assert float(read["f4"][1][0]) == pytest.approx(0.9, abs=0.02)
