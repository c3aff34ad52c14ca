"""What a run changes of the whole process is as before when it ends, however it ends."""

from __future__ import annotations

import logging
import os
import random
import warnings

import cv2
import numpy as np
import pytest
import torch

from pesi.errors import RecipeError
from pesi.taxonomy import TASKS
from pesi.train.recipe import load_recipe
from pesi.train.run import RunSettings, run_training, start_run
from pesi.train.trainer import prepared


def state_of_the_process() -> dict[str, object]:
    return {
        "filters": list(warnings.filters),
        "levels": [logging.getLogger(name).level for name in ("lightning.pytorch", "lightning.fabric")],
        "threads": (torch.get_num_threads(), cv2.getNumThreads()),
        "determinism": (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        ),
        "generators": (torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate()),  # noqa: NPY002
        "environment": dict(os.environ),
    }


@pytest.mark.parametrize("fails", [False, True])
def test_all_is_as_before(fails: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "12")
    before = state_of_the_process()
    with warnings.catch_warnings(record=True):
        try:
            with prepared(3) as threads:
                assert threads == torch.get_num_threads() == 3
                assert torch.are_deterministic_algorithms_enabled()
                random.seed(3), np.random.seed(3), torch.manual_seed(3)  # noqa: NPY002
                os.environ["PL_GLOBAL_SEED"] = os.environ["PL_SEED_WORKERS"] = "0"
                assert all(state_of_the_process()[name] != before[name] for name in before if name != "filters")
                if fails:
                    raise KeyboardInterrupt
        except KeyboardInterrupt:
            assert fails
    assert state_of_the_process() == before


def test_threads_are_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "6,1")
    for asked, devices, workers, given in ((0, 1, 0, 6), (0, 2, 1, 2), (0, 2, 9, 1), (4, 2, 1, 4)):
        with prepared(asked, devices=devices, workers=workers) as threads:
            assert threads == torch.get_num_threads() == given


def test_a_run_that_fails_leaves_nothing_behind(spots, tmp_path) -> None:
    before = state_of_the_process()
    recipe = load_recipe("pesi50", ["network.name=pesi14", "picture.size=64", "picture.source_size=72"])
    start_run(recipe.model_copy(update={"batch_size": 99}), spots, tmp_path, RunSettings("spots"), TASKS["isic2017"])
    with pytest.raises(RecipeError, match="do not fill one batch"):
        run_training(tmp_path, show_progress=False)
    assert state_of_the_process() == before
