"""Named perturbations of real images: artefacts pasted and removed, the lesion hidden, the picture taken otherwise."""

from __future__ import annotations

from pesi.images.perturb.capture import CAPTURE, GEOMETRY
from pesi.images.perturb.lesion import LESION
from pesi.images.perturb.paste import PASTED
from pesi.images.perturb.perturbation import Group, Perturbation, Perturbed
from pesi.images.perturb.removal import REMOVED

PERTURBATIONS: tuple[Perturbation, ...] = (*PASTED, *REMOVED, *LESION, *CAPTURE, *GEOMETRY)
"""All of them, by group."""

__all__ = ["PERTURBATIONS", "Group", "Perturbation", "Perturbed"]
