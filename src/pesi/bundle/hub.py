"""Bundles on the Hugging Face hub: only a bundle's own files come and go, none of them pickled.

Needs `huggingface_hub` (`pip install pesi-cnn[hub]`), whose settings hold: HF_ENDPOINT, HF_HOME, HF_TOKEN and
HF_HUB_OFFLINE.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from pesi.bundle.files import CARD, CONFIG, WEIGHTS, WEIGHTS_NAME, weights_files
from pesi.decide.novelty import NOVELTY_FILE
from pesi.errors import BundleError
from pesi.version import __version__

AUDIT = "audit.json"
MEMBERS = "model-*.safetensors"  # of several networks
FILES = (CONFIG, WEIGHTS, MEMBERS, CARD, NOVELTY_FILE, AUDIT)  # patterns of what a bundle has
MAX_BYTES = 1 << 30  # the largest of our networks, in float32, has 0.2 GB

_NAME = re.compile(r"hf:/{1,2}([^/@\s]+/[^/@\s]+)(?:@(\S+))?")
_log = logging.getLogger("pesi")


class HubName(NamedTuple):
    """A repository on the hub, and a branch, tag or commit of it; None: its main branch."""

    repo_id: str
    revision: str | None

    def __str__(self) -> str:
        return f"hf://{self.repo_id}" + (f"@{self.revision}" if self.revision else "")


def hub_name(name: str | Path) -> HubName | None:
    """What `hf://OWNER/NAME[@REVISION]` names, None for a text that does not begin so.

    Raises:
        BundleError: It begins so and goes on otherwise.
    """
    if not str(name).startswith("hf:/"):
        return None
    found = _NAME.fullmatch(str(name))
    if found is None:
        raise BundleError(f"{name} names no bundle on the hub.", "Write hf://OWNER/NAME or hf://OWNER/NAME@REVISION.")
    return HubName(found[1], found[2])


def hub_folder(
    name: HubName, *, max_bytes: int = MAX_BYTES, endpoint: str | None = None, token: str | None = None
) -> Path:
    """A bundle from the hub, in a folder of the hub's cache.

    The revision is resolved to a commit first, and the sizes that the hub lists are added up before anything is
    fetched. With HF_HUB_OFFLINE, what was fetched before is taken. The licence that the card states is logged once.

    Args:
        name: Which.
        max_bytes: Refuse a larger one.
        endpoint: Address of the hub; default HF_ENDPOINT, else the public one.
        token: Of an account that may read it; default the one that `hf auth login` keeps.

    Raises:
        BundleError: It is not there, no bundle, too large, or the hub cannot be reached.
    """
    hub = _library()
    revision, offline = name.revision, hub.constants.HF_HUB_OFFLINE
    if not offline:
        with _told(name):
            info = hub.HfApi(endpoint=endpoint, token=token).model_info(
                name.repo_id, revision=name.revision, files_metadata=True
            )
        sizes = {
            file.rfilename: file.size
            for file in info.siblings or ()
            if file.rfilename in FILES or WEIGHTS_NAME.fullmatch(file.rfilename)
        }
        if CONFIG not in sizes or not any(WEIGHTS_NAME.fullmatch(file) for file in sizes):
            missing = CONFIG if CONFIG not in sizes else WEIGHTS
            raise BundleError(f"{name} is no bundle: it has no {missing}.", "Check the name and the revision.")
        if unknown := [file for file, size in sizes.items() if size is None]:
            raise BundleError(f"{name}: the hub does not tell the size of {unknown[0]}.", "Try again later.")
        if sum(sizes.values()) > max_bytes:
            raise BundleError(
                f"{name} has {sum(sizes.values()):,} bytes, over the limit of {max_bytes:,}.",
                "If that is meant: from_pretrained(..., max_bytes=...), or `hf download` and the folder's name.",
            )
        revision = info.sha

    def fetched(file: str, of: str | None) -> Path:
        with _told(name):
            return Path(
                hub.hf_hub_download(
                    name.repo_id,
                    file,
                    revision=of,
                    endpoint=endpoint,
                    token=token,
                    local_files_only=offline,
                    library_name="pesi-cnn",
                    library_version=__version__,
                )
            )

    # By its commit, so that no later one mixes in; the config also by its name, which the cache then knows offline.
    folder = fetched(CONFIG, revision).parent
    beside = (CARD, NOVELTY_FILE, AUDIT)
    for file in weights_files(folder) if offline else [f for f in (*weights_files(folder), *beside) if f in sizes]:
        fetched(file, revision)
    for file in beside if offline else ():
        with suppress(BundleError):  # what was fetched before
            fetched(file, revision)
    if not offline:
        fetched(CONFIG, name.revision)
    _say_licence(f"{name}" if offline else f"{HubName(name.repo_id, str(revision)[:12])}", card_licence(folder))
    return folder


def push_folder(
    folder: str | Path,
    repo_id: str,
    *,
    revision: str | None = None,
    private: bool | None = None,
    message: str = "Upload a pesi-cnn bundle",
    endpoint: str | None = None,
    token: str | None = None,
) -> str:
    """Send a bundle's files to the hub, in one commit.

    Args:
        folder: The bundle's folder.
        repo_id: OWNER/NAME; made if missing.
        revision: Branch; default main.
        private: Whether a new repository is private; default what the owner's settings say.
        message: Of the commit.
        endpoint, token: As for `hub_folder`.

    Returns:
        The commit's address.

    Raises:
        BundleError: The hub refused, or cannot be reached.
    """
    name, api = HubName(repo_id, revision), _library().HfApi(endpoint=endpoint, token=token)
    with _told(name):
        api.create_repo(repo_id, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            allow_patterns=list(FILES),
            revision=revision,
            commit_message=message,
        )
    return str(commit.commit_url)


def card_licence(folder: str | Path) -> str:
    """The licence in a card's front matter (`license_name` where it is none that the hub lists); "" where none is."""
    try:
        text = (Path(folder) / CARD).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
    front = text.split("\n---\n")[0] if text.startswith("---\n") else ""
    fields = dict(re.findall(r"^(license|license_name): *(.+?) *$", front, re.MULTILINE))
    return str(fields.get("license_name") or fields.get("license", ""))


@lru_cache(maxsize=64)
def _say_licence(name: str, licence: str) -> None:
    _log.info("%s: licence %s", name, licence or "not stated")


def _library() -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.constants
    except ImportError as error:
        raise BundleError("The package huggingface_hub is not installed.", "pip install pesi-cnn[hub]") from error
    return huggingface_hub


@contextmanager
def _told(name: HubName) -> Iterator[None]:
    """The library's errors as ours; it raises those of several libraries beneath it too."""
    from huggingface_hub import errors

    try:
        yield
    except errors.LocalEntryNotFoundError as error:
        raise BundleError(
            f"{name} was not fetched before, and the hub is switched off (HF_HUB_OFFLINE).",
            "Fetch it once while online, or give a folder.",
        ) from error
    except errors.GatedRepoError as error:
        raise BundleError(
            f"{name} is only for those whom its owner lets in.", "Ask there, then: hf auth login"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise BundleError(f"{name} has no such revision.", "Give a branch, a tag or a commit.") from error
    except errors.RepositoryNotFoundError as error:
        raise BundleError(
            f"There is no {name} on the hub, or it is private.", "Check the name; to log in: hf auth login"
        ) from error
    except BundleError:
        raise
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise BundleError(
            f"The hub did not do what was asked about {name}: {reason[0]}",
            "Check the connection and HF_ENDPOINT; HF_HUB_OFFLINE=1 takes what was fetched before.",
        ) from error
