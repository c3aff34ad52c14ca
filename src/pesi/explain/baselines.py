"""Maps that any explanation must be measured against: Grad-CAM, smooth noise, and the middle of the picture."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from pesi.errors import DataError
from pesi.explain.maps import Map
from pesi.images.transforms import Image, normalise, to_tensor
from pesi.nn.cnn import PesiCNN
from pesi.predict.classifier import Classifier
from pesi.predict.members import Member

STRIDE = 32  # of every network's last feature map: a class activation map has a value for each 32 x 32 pixels


def last_block_of_stage(network: PesiCNN, stage: int) -> str:
    """Name of the last block of a stage (1..4), such as "layer3.5".

    Raises:
        ValueError: The network has no such stage.
    """
    names = [name for name in network.blocks() if name.startswith(f"layer{stage}.")]
    if not names:
        raise ValueError(f"The network has no stage {stage}.")
    return names[-1]


def grad_cam(
    classifier: Classifier, picture: Image, class_name: str, *, layer: str | None = None, relu: bool = True
) -> Map:
    """Grad-CAM: a layer's channels, each weighted by the mean gradient of the class's logit (Selvaraju, ICCV 2017).

    Args:
        classifier: The classifier.
        picture: What the network sees, (S, S, 3), as `explain` returns it.
        class_name: The class to explain.
        layer: Name of the module whose output is taken; default the last block of stage 3, because at the last map
            Grad-CAM is the class activation map over again.
        relu: Whether negative values are set to 0, as published.

    Returns:
        (S, S), enlarged bilinearly; of several networks the mean.

    Raises:
        DataError: The classifier has no such class or layer.
    """
    members = classifier.looking_at()
    network = members[0].network
    if class_name not in classifier.config.outputs:
        raise DataError(
            f"Unknown class {class_name!r}.", f"This bundle's classes: {', '.join(classifier.config.outputs)}."
        )
    name = layer or last_block_of_stage(network, 3)
    modules = dict(network.named_modules())
    if name not in modules:
        raise DataError(f"The network has no layer {name!r}.", f"Its blocks: {', '.join(network.blocks())}.")
    output, size = classifier.config.outputs.index(class_name), picture.shape[0]
    small = np.mean([_grad_cam(member, picture, output, name, relu) for member in members], axis=0)
    return np.asarray(cv2.resize(small, (size, size), interpolation=cv2.INTER_LINEAR), np.float32)


def _grad_cam(member: Member, picture: Image, output: int, layer: str, relu: bool) -> Map:
    network, preprocess = member.network, member.config.preprocess
    device = next(network.parameters()).device
    seen: list[Tensor] = []

    def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen.append(output)

    handle = dict(network.named_modules())[layer].register_forward_hook(keep)
    try:
        with torch.enable_grad():
            x = normalise(to_tensor(picture)[None].to(device), preprocess.mean, preprocess.std)
            # Gradients of a network whose weights are frozen need an input that asks for them.
            logit = network(x.requires_grad_())[0, output]
            (gradient,) = torch.autograd.grad(logit, seen[0])
    finally:
        handle.remove()
    values = (gradient.mean((2, 3), keepdim=True) * seen[0].detach()).sum(1)[0].float()
    return np.asarray((values.clamp_min(0) if relu else values).cpu().numpy(), np.float32)


def random_map(size: int, rng: np.random.Generator) -> Map:
    """Smooth noise (size, size) from 0: independent values as coarse as a class activation map's, enlarged alike."""
    cells = max(2, size // STRIDE)
    noise = rng.standard_normal((cells, cells), dtype=np.float32)
    grown = cv2.resize(noise, (size, size), interpolation=cv2.INTER_LINEAR)
    return np.asarray(grown - grown.min(), np.float32)


def pixel_noise(size: int, rng: np.random.Generator) -> Map:
    """Noise (size, size) in 0..1, each pixel for itself: what replacing scattered pixels alone does to a network."""
    return rng.random((size, size), dtype=np.float32)


def centre_gaussian(size: int, *, deviation: float = 0.25) -> Map:
    """A bell (size, size) around the middle, 1 at its top: where a photographer puts the lesion.

    Args:
        size: Side, pixels.
        deviation: Standard deviation, as a share of the side.
    """
    axis = (np.arange(size) + 0.5) / size - 0.5
    bell = np.exp(-(axis**2) / (2 * deviation**2))
    return np.asarray(np.outer(bell, bell), np.float32)
