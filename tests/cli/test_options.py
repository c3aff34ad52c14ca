"""Every option and verb that an error's cure or a help text names exists where the user meets it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import pesi
from pesi.cli.app import app
from pesi.taxonomy import TASK_NAMES

PACKAGE = Path(pesi.__file__).parent


def verbs() -> dict[str, tuple[str, set[str]]]:
    """Module and options of each verb by its words: "data split"."""
    found = {}

    def gather(command: object, words: tuple[str, ...]) -> None:
        inner = getattr(command, "commands", None)
        if inner is not None:
            for name, one in inner.items():
                gather(one, (*words, name))
            return
        options = {name for p in command.params for name in (*p.opts, *p.secondary_opts)}  # type: ignore[attr-defined]
        found[" ".join(words)] = (command.callback.__module__, options)  # type: ignore[attr-defined]

    gather(typer.main.get_command(app), ())
    return found


VERBS = verbs()
EVERY = {"--version", "--help"}.union(*(options for _, options in VERBS.values()))
OF_OTHERS = {"--shm-size"}  # docker's
# Verbs that a room's errors can reach, where not all.
ROOMS = {"train": ("train", "segmenter train"), "evaluate": ("evaluate", "audit", "compare", "segmenter evaluate")}
READING = [
    verb for verb, (_, options) in VERBS.items() if "--data" in options or verb.startswith(("data ", "similar b"))
]


def texts_of_errors() -> Iterator[tuple[Path, str]]:
    """What is said where an error is raised."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = getattr(getattr(node, "func", None), "id", getattr(getattr(node, "func", None), "attr", ""))
            if isinstance(node, ast.Call) and (name in ("error", "BadParameter", "say") or name.endswith("Error")):
                for inner in ast.walk(node):
                    if isinstance(inner, ast.Constant) and isinstance(inner.value, str):
                        yield path, inner.value


def test_options_that_errors_name_are_those_of_a_verb_that_raises_them() -> None:
    seen = 0
    for path, text in texts_of_errors():
        module = "pesi." + ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        room = path.relative_to(PACKAGE).parts[0]
        own = [options for name, options in VERBS.values() if name == module]
        own = own or [VERBS[verb][1] for verb in ROOMS.get(room, ())]
        own += [options for name, (_, options) in VERBS.items() if own and f"pesi {name} " in text]
        for option in re.findall(r"(?<![\w-])--[a-z][a-z-]*", text):
            if option in OF_OTHERS:
                continue
            seen += 1
            assert option in (set().union(*own) if own else EVERY), f"{path}: no verb there has {option}: {text!r}"
    assert seen > 20


def test_verbs_that_errors_name_exist() -> None:
    seen = 0
    for path, text in texts_of_errors():
        for first, second in re.findall(r"\bpesi ([a-z]+)(?: ([a-z]+))?", text):
            seen += 1
            assert first in VERBS or f"{first} {second}" in VERBS, f"{path}: there is no `pesi {first} {second}`"
    assert seen > 5


@pytest.mark.parametrize("verb", [verb for verb in READING if verb not in ("data fetch", "data synthetic")])
def test_every_verb_that_reads_a_data_set_can_be_told_which_and_to_leave_out(verb: str) -> None:
    _, options = VERBS[verb]
    assert "--dataset" in options
    assert ("--skip-missing" in options) is (verb != "data check")  # which reports them
    assert ("--skip-other-diagnoses" in options) is (
        verb in ("train", "evaluate", "compare", "audit", "calibrate", "export")
    )


@pytest.mark.parametrize("verb", ["train", "evaluate", "compare"])
def test_help_lists_the_tasks(verb: str) -> None:
    text = CliRunner().invoke(app, [verb, "--help"], env={"COLUMNS": "200", "TERMINAL_WIDTH": "200"}).output
    assert all(name in text for name in TASK_NAMES)
