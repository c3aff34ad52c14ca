"""Where and with what a run is made: versions, machine, git commit, and the processes that a launcher started."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.fabric.utilities.rank_zero import rank_zero_only

from pesi.errors import PesiError

_PACKAGES = ("pesi-cnn", "torch", "lightning", "numpy", "opencv-python-headless", "pillow", "scikit-learn")


def environment(threads: int) -> dict[str, Any]:
    """Versions, machine and commit as plain values; no user name, host name or path."""
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "git_commit": git_commit(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in _PACKAGES},
        "system": f"{platform.system()} {platform.machine()}",
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cpu_cores": os.cpu_count(),
        "threads": threads,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        # The verb, or a table without its folder; the rest may hold a user's paths and stands in run.json.
        "arguments": [Path(argument).name for argument in sys.argv[1:2]],
    }


def git_commit() -> str | None:
    """Commit of the source tree that this package runs from, "+changes" where it differs; None outside of one."""
    folder = Path(__file__).resolve().parent
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        tracked = _git(folder, "ls-files", "--error-unmatch", Path(__file__).name)
        changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return (commit + ("+changes" if changes else "")) if tracked else None


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()


class Launch(NamedTuple):
    """Which of several processes this is, and which of its machine's; by default it is the only one."""

    rank: int = 0
    local_rank: int = 0
    processes: int = 1
    nodes: int = 1

    @property
    def each(self) -> tuple[int, int]:
        """Processes of a machine, and machines."""
        return self.processes // self.nodes, self.nodes


def launch() -> Launch:
    """What torchrun (torch.distributed.run) or srun (a step of several tasks) says in the environment.

    Raises:
        PesiError: The trainer cannot take it from a step that was started so.
    """

    def numbers(*names: str) -> list[int]:
        return [int(os.environ[name]) for name in names]

    if "TORCHELASTIC_RUN_ID" in os.environ:
        rank, local_rank, processes, local = numbers("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
        return Launch(rank, local_rank, processes, processes // local)
    if int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) == 1:
        return Launch()
    if "SLURM_NTASKS_PER_NODE" not in os.environ or os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive"):
        cure = "Give srun --ntasks-per-node, and a --job-name other than bash or interactive."
        raise PesiError("The trainer cannot tell which of srun's processes this is.", cure)
    return Launch(*numbers("SLURM_PROCID", "SLURM_LOCALID", "SLURM_STEP_NUM_TASKS", "SLURM_STEP_NUM_NODES"))


def leave_launch() -> Launch:
    """What `launch` says; from then on this process is the only one, on a GPU of its own where there are some."""
    started = launch()
    if started.processes > 1:
        visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
        own = visible[started.local_rank % len(visible)] if visible else str(started.local_rank)
        os.environ["CUDA_VISIBLE_DEVICES"] = own
        names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "ROLE_RANK")
        for name in [name for name in os.environ if name in names or name.startswith(("SLURM_", "TORCHELASTIC_"))]:
            del os.environ[name]
        setattr(rank_zero_only, "rank", 0)  # noqa: B010 - of a function
    return started
