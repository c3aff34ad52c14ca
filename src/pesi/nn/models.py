"""Every network by its name."""

from __future__ import annotations

from collections.abc import Sequence

from pesi.nn.block import AttentionSettings
from pesi.nn.cnn import STAGES, PesiCNN
from pesi.nn.lite import LITE_SCALES, PesiLite
from pesi.nn.resnet import ARCHITECTURES, PesiResNet

NETWORKS: tuple[str, ...] = (*ARCHITECTURES, *LITE_SCALES)


def create_model(
    name: str,
    *,
    num_classes: int,
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
        num_classes: Outputs of the head.
        attention: A key of `attention.FORMS`; `"none"` is the plain network.
        alpha: Initial value of every alpha.
        per_channel: One alpha a channel instead of one a block.
        temperature: Of the attention's normalisation.
        attend_projection: Whether blocks with a projected shortcut attend too (ResNets).
        attend_stages: The stages (1..4) whose blocks attend.
        dropout: Probability of dropping a pooled feature before the head.

    Raises:
        KeyError: No network has that name; the message lists those that exist.
        ValueError: An option is out of range.
    """
    settings = AttentionSettings(attention, alpha, per_channel, temperature, attend_projection)
    if name in ARCHITECTURES:
        return PesiResNet(
            ARCHITECTURES[name],
            num_classes=num_classes,
            attention=settings,
            attend_stages=attend_stages,
            dropout=dropout,
        )
    if name in LITE_SCALES:
        return PesiLite(
            LITE_SCALES[name], num_classes=num_classes, attention=settings, attend_stages=attend_stages, dropout=dropout
        )
    raise KeyError(f"Unknown network {name!r}; choose one of: {', '.join(NETWORKS)}.")
