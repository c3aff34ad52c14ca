"""Drawn dermoscopy images with full ground truth, for tests and demonstrations; never for clinical use."""

from pesi.synthetic.artefacts import RATES
from pesi.synthetic.dataset import write_synthetic
from pesi.synthetic.image import Parameters, SyntheticImage, draw_lesion, draw_parameters, render
from pesi.synthetic.lesion import CRITERIA, FREQUENCIES
from pesi.synthetic.skin import ITA_BANDS

__all__ = [
    "CRITERIA",
    "FREQUENCIES",
    "ITA_BANDS",
    "RATES",
    "Parameters",
    "SyntheticImage",
    "draw_lesion",
    "draw_parameters",
    "render",
    "write_synthetic",
]
