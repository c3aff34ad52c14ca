"""The residual attention: a block's own high-level map O attends over its lower-level input s.

    y = O + s + alpha * M . s,    M = R(O)

after J. Zhang, Y. Xie, Y. Xia, C. Shen, "Attention Residual Learning for Skin Lesion Classification", IEEE TMI 38(9),
2019, doi 10.1109/TMI.2019.2893944. R is one of `FORMS`; alpha is the only parameter.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pesi.nn.fused import Branch, attention_residual, kernels_for, records_graph
from pesi.nn.kernels import HALF, Settings

FORMS: dict[str, str] = {
    "spatial": "softmax of each channel over its H x W positions (the paper)",
    "spatial-mean1": "the same times H*W, so that its mean is 1",
    "sigmoid": "sigmoid of each value",
    "channel": "softmax over the channels at each position (what public re-implementations do)",
    "se": "squeeze-and-excitation of O: learned, with layers and parameters of its own; to compare with",
    "none": "no attention: a plain ResNet",
}

# M is about 1/HW or 1/C: added to an O + s that bfloat16 has rounded already (8 bits of mantissa) it would be lost. So
# all is added up in float32 and rounded once: as sums lie anywhere between two such numbers, it survives on average.
FLOAT32_FORMS = frozenset({"spatial", "spatial-mean1", "channel"})

# e^70 times a million positions is below float32's largest value, e^-70 above its smallest.
_GRAPH_LIMIT = 70.0


def attention_map(o: Tensor, form: str, temperature: float = 1.0) -> Tensor:
    """M = R(O / temperature), computed in float32 or better.

    Args:
        o: The block's last normalised map before the addition, (N, C, H, W).
        form: A key of `FORMS` that has an M: any but `"se"` and `"none"`.
        temperature: Above 1 flattens M, below 1 sharpens it.

    Returns:
        M, (N, C, H, W), non-negative. `spatial` sums to 1 over H x W, `channel` sums to 1 over C.
    """
    z = o.float() if o.dtype in (torch.bfloat16, torch.float16) else o
    z = z / temperature if temperature != 1.0 else z
    if form == "sigmoid":
        return torch.sigmoid(z)
    if form == "channel":
        return _softmax(z, (1,))
    if form == "spatial":
        return _softmax(z, (2, 3))
    if form == "spatial-mean1":
        return _softmax(z, (2, 3)) * (z.shape[2] * z.shape[3])
    raise ValueError(f"Attention {form!r} has no map; those with one: {', '.join(f for f in FORMS if has_map(f))}.")


def has_map(form: str) -> bool:
    """Whether the form is a residual attention, with a map M and an alpha."""
    return form in FORMS and form not in ("se", "none")


def _softmax(z: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Softmax over several dimensions, without the copy that flattening a channels_last tensor costs.

    A graph is spared the pass for the maximum: there values beyond +-70, which no batch norm gives, count as +-70.
    """
    e = torch.exp(z.clamp(-_GRAPH_LIMIT, _GRAPH_LIMIT) if records_graph() else z - z.amax(dims, keepdim=True))
    return e / e.sum(dims, keepdim=True)


def attend(o: Tensor, s: Tensor, alpha: Tensor, form: str, temperature: float = 1.0, *, relu: bool = True) -> Tensor:
    """The tail of a Pesi block: ReLU(s + O + alpha * M . s).

    Args:
        o, s: The block's map and its shortcut, (N, C, H, W).
        alpha: (1,) or (C,). At 0 the result is a plain ResNet block's, bit for bit.
        form: A key of `FORMS` other than `"none"`.
        temperature: See `attention_map`.
        relu: Whether a ReLU follows (ResNet blocks) or not (inverted residuals, whose output is linear).

    Returns:
        (N, C, H, W), of O's type.
    """
    return attend_normed(Branch(o), Branch(s), alpha, form, temperature, relu=relu)


def attend_normed(
    o: Branch, s: Branch, alpha: Tensor, form: str, temperature: float = 1.0, *, relu: bool = True
) -> Tensor:
    """The same of maps whose batch norms are still to come: for the spatial forms one operation, see `nn.fused`."""
    if form.startswith("spatial") and (kernels := kernels_for(o, s)) is not None:
        gain = float(o.z.shape[2] * o.z.shape[3]) if form == "spatial-mean1" else 1.0
        return attention_residual(o, s, alpha, Settings(temperature, gain, relu), kernels)
    return _plain(o.map(), s.map(), alpha, form, temperature, relu)


def _plain(o: Tensor, s: Tensor, alpha: Tensor, form: str, temperature: float, relu: bool) -> Tensor:
    kind = o.dtype
    dtype = torch.float32 if kind in HALF and form in FLOAT32_FORMS else kind
    o, s, alpha = o.to(dtype), s.to(dtype), alpha.to(dtype)
    m = attention_map(o, form, temperature).to(dtype)
    y = o + s * (1 + alpha.view(1, -1, 1, 1) * m)
    return (torch.relu(y) if relu else y).to(kind)


class SqueezeExcitation(nn.Module):
    """O times a gate a channel, learned from O's mean (Hu, Shen, Sun, CVPR 2018, arXiv 1709.01507).

    The gate is 2 sigmoid(.) and starts at 1, so that a pretrained network starts as itself.

    Args:
        channels: Of O.
        reduction: Channels over hidden units; the paper's 16.
    """

    def __init__(self, channels: int, *, reduction: int = 16) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, max(channels // reduction, 4))
        self.fc2 = nn.Linear(self.fc1.out_features, channels)
        nn.init.zeros_(self.fc2.weight)
        nn.init.zeros_(self.fc2.bias)

    def forward(self, o: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape."""
        gate = 2 * torch.sigmoid(self.fc2(torch.relu(self.fc1(o.mean((2, 3))))))
        return o * gate[:, :, None, None].to(o.dtype)


def attention_energy(m: Tensor, o: Tensor, s: Tensor, alpha: Tensor) -> Tensor:
    """||alpha M s|| / ||s + O|| of each image, (N,): how much the attention changes what the block adds up."""
    o, s = o.float(), s.float()
    gained = (alpha.float().view(1, -1, 1, 1) * m * s).flatten(1).norm(dim=1)
    total = (s + o).flatten(1).norm(dim=1).clamp_min(torch.finfo(torch.float32).tiny)
    return torch.div(gained, total)
