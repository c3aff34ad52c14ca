"""The networks of a classifier's bundle, each fed as its member says, run by a runtime."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pesi.bundle.config import MemberConfig
from pesi.decide.calibration import scaled_logits
from pesi.images.transforms import Image
from pesi.machine import thread_count
from pesi.predict.runtimes.runtime import Runtime
from pesi.predict.runtimes.session import Arrays, Program, Session

if TYPE_CHECKING:
    from torch import nn

    from pesi.nn.cnn import PesiCNN

Floats = NDArray[np.float32]


class Maps(NamedTuple):
    """What `nn.cnn.PesiMaps` tells of one picture (a batch of one), as arrays."""

    logits: Floats
    features: Floats
    cam: Floats
    attention: Mapping[str, Floats]
    energy: Mapping[str, Floats]


class Networks:
    """A bundle's networks and what runs them.

    Args:
        configs: How each is fed and calibrated.
        modules: The networks, or the only one, or what gives them when PyTorch is first needed.
        runtime: Runs them.
        probabilities: Of calibrated logits (N, V, K), (N, V, K): what a runtime must not change.
    """

    def __init__(
        self,
        configs: Sequence[MemberConfig],
        modules: PesiCNN | Sequence[PesiCNN] | Callable[[], Sequence[PesiCNN]],
        runtime: Runtime,
        probabilities: Callable[[Floats], NDArray[np.float64]],
    ) -> None:
        self.configs, self.runtime = tuple(configs), runtime
        self._make, self._probabilities = modules, probabilities
        self._made: tuple[PesiCNN, ...] | None = None
        self._sessions: dict[tuple[str, tuple[int, ...]], Session] = {}
        self._lock = threading.RLock()
        self._opening: dict[tuple[str, tuple[int, ...]], threading.Lock] = {}  # of each session
        if runtime.runs_torch and not callable(modules):
            _ = self.modules  # brought to the device now

    @property
    def modules(self) -> tuple[PesiCNN, ...]:
        """The networks themselves, on the runtime's device."""
        with self._lock:
            if self._made is None:
                import torch

                made: Any = self._make
                if isinstance(made, torch.nn.Module):
                    made = (made,)
                self._made = tuple(made if isinstance(made, Sequence) else made())
                for network in self._made:
                    network.eval().to(self.runtime.device)
                    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            return self._made

    def session(self, members: Sequence[int], what: Literal["answers", "maps"] = "answers") -> Session:
        """What answers, or gives the maps, for some of the networks, which must see pictures of one size."""
        key = what, tuple(members)
        with self._lock:
            opening = self._opening.setdefault(key, threading.Lock())
        with opening:
            if key not in self._sessions:
                self._sessions[key] = self.runtime.session(self.program(*key))
            return self._sessions[key]

    def run_by(self, groups: Sequence[Sequence[int]]) -> str:
        """What answers for groups of networks, such as "openvino float32"; opens it, on all cores."""
        if any(("answers", tuple(group)) not in self._sessions for group in groups):
            with ThreadPoolExecutor(thread_count()) as pool:
                list(pool.map(self.session, groups))
        sessions = [self.session(group) for group in groups]
        return " and ".join(dict.fromkeys(f"{session.runtime} {session.precision}" for session in sessions))

    def answers(self, members: Sequence[int], pictures: Sequence[Image] | NDArray[np.uint8]) -> tuple[Floats, Floats]:
        """What M of the networks, that see alike, say of N pictures (S, S, 3).

        Returns:
            Their logits, each calibrated by itself, (N, M, K); and pooled features, (N, M, C).
        """
        whole = next((each for each in self.runtime.whole_graphs if set(members) <= set(each)), tuple(members))
        found = self.session(whole).run(self._stacked(members, pictures))
        places = [whole.index(member) for member in members]
        return self._calibrated(members, found["logits"][:, places]), found["features"][:, places]

    def maps(self, members: Sequence[int], picture: Image) -> list[Maps]:
        """The maps of a picture (S, S, 3) by networks that see alike; the logits are calibrated."""
        found = self.session(members, "maps").run(self._stacked(members, [picture]))
        maps = []
        for place, member in enumerate(members):
            own = {name.partition("/")[2]: values for name, values in found.items() if name.startswith(f"{place}/")}
            logits = self._calibrated([member], own["logits"][:, None])[:, 0]
            maps.append(Maps(logits, own["features"], own["cam"], _under("attention", own), _under("energy", own)))
        return maps

    def _stacked(self, members: Sequence[int], pictures: Sequence[Image] | NDArray[np.uint8]) -> NDArray[np.uint8]:
        size = self.configs[members[0]].preprocess.size
        return np.stack(list(pictures)) if len(pictures) else np.zeros((0, size, size, 3), np.uint8)

    def _calibrated(self, members: Sequence[int], logits: Floats) -> Floats:
        """Of networks, (N, M, K), each by its own temperature and vector."""
        each = [
            scaled_logits(logits[:, place], self.configs[member].vector) / self.configs[member].temperature.value
            for place, member in enumerate(members)
        ]
        return np.stack(each, axis=1).astype(np.float32, copy=False)

    def program(self, what: str, members: tuple[int, ...]) -> Program:
        """What is run of some of the networks; see `session`."""
        own = [self.configs[member] for member in members]
        size = own[0].preprocess.size
        told = [
            config.model_dump(mode="json", include={"network", "weights_sha256", "vector", "temperature"})
            | {"mean": config.preprocess.mean, "std": config.preprocess.std}
            for config in own
        ]
        # With the calibration, because it decides how much a difference of logits matters.
        known = [
            what,
            size,
            told,
            # Rounded: another processor's exponentials differ in their last bits.
            self._probabilities(np.eye(own[0].network.num_classes, dtype=np.float32)[None]).round(6).tolist(),
        ]
        key = hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()

        def module() -> nn.Module:
            from pesi.predict.runtimes.on_torch import Answers, MapsOf

            statistics = [(config.preprocess.mean, config.preprocess.std) for config in own]
            return (Answers if what == "answers" else MapsOf)([self.modules[member] for member in members], statistics)

        def probabilities(outputs: Arrays) -> NDArray[np.float64]:
            if what == "answers":
                logits = self._calibrated(members, outputs["logits"])
            else:
                each = [outputs[f"{place}/logits"] for place in range(len(members))]
                logits = self._calibrated(members, np.stack(each, axis=1))
            return self._probabilities(logits)

        networks = f"{len(own)} network{'s' * (len(own) > 1)} ({own[0].network.name}, {size} px, {what})"
        return Program(networks, key, size, module, probabilities, exported=what == "answers")


def _under(what: str, outputs: Mapping[str, Floats]) -> dict[str, Floats]:
    return {name.partition("/")[2]: values for name, values in outputs.items() if name.startswith(f"{what}/")}
