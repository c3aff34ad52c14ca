"""Named perturbations of real images: artefacts pasted and removed, the lesion hidden, the picture taken otherwise."""

from __future__ import annotations

from pesi.data.perturb.capture import CAPTURE, GEOMETRY
from pesi.data.perturb.lesion import LESION
from pesi.data.perturb.paste import PASTED
from pesi.data.perturb.perturbation import Group, Perturbation, Perturbed
from pesi.data.perturb.removal import REMOVED

PERTURBATIONS: tuple[Perturbation, ...] = (*PASTED, *REMOVED, *LESION, *CAPTURE, *GEOMETRY)
"""All of them, by group."""

__all__ = ["PERTURBATIONS", "Group", "Perturbation", "Perturbed"]
