"""Where to compute."""

from __future__ import annotations

import torch

from pesi.errors import PesiError


def torch_device(name: str | torch.device | None = None) -> torch.device:
    """The device of that name, such as "cpu", "cuda" or "mps"; None: a GPU if there is one.

    Raises:
        PesiError: There is no such device here.
    """
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # AssertionError: built without CUDA
        reason = str(error).splitlines()[0].rstrip(".")
        raise PesiError(f"Cannot compute on the device {str(name)!r}: {reason}.", "Use --device cpu.") from error
    return device
