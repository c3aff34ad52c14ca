"""What a classifier and a segmenter share with other libraries: from_pretrained, push_to_hub."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

from pesi.bundle.files import CommonConfig, forbids_commercial_use, licence_name
from pesi.bundle.hub import card_licence, push_folder
from pesi.bundle.installed import pretrained_folder

_log = logging.getLogger("pesi")


class Shared(ABC):
    """A bundle that is open.

    Attributes:
        config: What it says of itself.
        folder: Where it was opened from, None where it was made in memory.
    """

    config: CommonConfig
    folder: Path | None = None

    @classmethod
    @abstractmethod
    def load(
        cls,
        folder: str | Path,
        *,
        device: str | None = None,
        runtime: str | None = None,
        precision: str | None = None,
    ) -> Self:
        """Open a bundle's folder."""

    @abstractmethod
    def save_pretrained(self, folder: str | Path) -> None:
        """Write it as a bundle."""

    @classmethod
    def from_pretrained(
        cls,
        name_or_folder: str | Path,
        *,
        revision: str | None = None,
        device: str | None = None,
        runtime: str | None = None,
        precision: str | None = None,
        max_bytes: int | None = None,
        endpoint: str | None = None,
        token: str | None = None,
    ) -> Self:
        """Open a bundle from a folder, by the name of one that is installed, or from the Hugging Face hub.

        Args:
            name_or_folder: A folder; an installed bundle's name; OWNER/NAME, with or without `hf://`, on the hub.
            revision: Branch, tag or commit on the hub; a commit pins it.
            device, runtime, precision: As for `Classifier.load`.
            max_bytes: Refuse to fetch a larger bundle; default `bundle.hub.MAX_BYTES`.
            endpoint: Address of the hub; default HF_ENDPOINT, else the public one.
            token: Of an account that may read it; default the one that `hf auth login` keeps.

        Raises:
            BundleError: It is not there, too large, damaged, of another kind or version, or the hub cannot be reached.
        """
        folder = pretrained_folder(
            name_or_folder, revision=revision, max_bytes=max_bytes, endpoint=endpoint, token=token
        )
        return cls.load(folder, device=device, runtime=runtime, precision=precision)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        revision: str | None = None,
        private: bool | None = None,
        message: str = "Upload a pesi-cnn bundle",
        endpoint: str | None = None,
        token: str | None = None,
    ) -> str:
        """Send it to the Hugging Face hub as a bundle, in one commit; gives the commit's address.

        Args:
            repo_id: OWNER/NAME; made if missing.
            revision: Branch; default main.
            private: Whether a new repository is private; default what the owner's settings say.
            message: Of the commit.
            endpoint, token: As for `from_pretrained`; the account must be allowed to write.

        Raises:
            BundleError: The hub refused, or cannot be reached.
        """
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return push_folder(
                folder, repo_id, revision=revision, private=private, message=message, endpoint=endpoint, token=token
            )

    def _opened_from(self, folder: str | Path) -> Self:
        """Itself, as of a folder; a licence that forbids commercial use is logged as a warning, once a process."""
        self.folder = Path(folder)
        if forbids_commercial_use(self.licence):
            _say_licence(self.config.bundle_id, licence_name(self.licence))
        return self

    @property
    def licence(self) -> str:
        """What its config or else its card says of the licence; "" where neither does."""
        return self.config.licence or (card_licence(self.folder) if self.folder else "")


@cache
def _say_licence(bundle_id: str, licence: str) -> None:
    _log.warning("%s: its licence, %s, forbids commercial use.", bundle_id, licence)
