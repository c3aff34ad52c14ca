"""The documents hold: links lead somewhere, commands are understood, snippets parse, names are those of the code."""

from __future__ import annotations

import importlib
import importlib.util
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image as PillowImage

import pesi
from pesi.cli.app import app
from pesi.datasets.readers import READERS
from pesi.decide.triage import read_triage_rule
from pesi.synthetic import draw_lesion
from pesi.train.recipe import load_recipe

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted(
    path
    for folder in (ROOT, ROOT / "docs", ROOT / "benchmarks", ROOT / "models" / "research")
    for path in folder.glob("*.md")
    if path.is_file()
)
IDS = [path.relative_to(ROOT).as_posix() for path in DOCUMENTS]
every_document = pytest.mark.parametrize("document", DOCUMENTS, ids=IDS)
PESI: Any = typer.main.get_command(app)
LAUNCHERS = {"torchrun", "srun"}
OTHER_PROGRAMS = {"cd", "git", "make", "pip", "source", ".venv/bin/python"}


def blocks(document: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", document.read_text(encoding="utf-8"), re.M | re.S)


def prose(document: Path) -> str:
    return re.sub(r"^```.*?^```$", "", document.read_text(encoding="utf-8"), flags=re.M | re.S)


def code_spans(document: Path) -> list[str]:
    return [span.replace("\n", " ") for span in re.findall(r"`([^`]+)`", prose(document))]


def anchors(document: Path) -> set[str]:
    """The names that GitHub gives a document's headings."""
    headings = re.findall(r"^#+ +(.*)$", prose(document), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def verb_of(words: list[str]) -> tuple[Any, list[str]]:
    """The command that words after `pesi` lead to, and the words after it."""
    command, rest = PESI, list(words)
    while getattr(command, "commands", None) and rest and not rest[0].startswith("-"):
        assert rest[0] in command.commands, f"pesi has no verb {rest[0]!r}"
        command = command.commands[rest.pop(0)]
    return command, rest


def options_of(command: Any) -> set[str]:
    return {"--help"} | {name for each in command.params for name in (*each.opts, *each.secondary_opts)}


def understood(line: str) -> None:
    """Have the command line's own parser read a line of shell; nothing is run."""
    words = shlex.split(line, comments=True)
    while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):  # variables before the program
        words.pop(0)
    if not words:
        return
    program = words.pop(0)
    if program.removeprefix(".venv/bin/") == "pesi":
        command, rest = verb_of(words)
        command.make_context(command.name, rest)
        return
    if program in LAUNCHERS:  # they start a command of ours, or a benchmark
        understood(shlex.join(words[words.index("pesi") :]))
        return
    assert program in OTHER_PROGRAMS, f"{program} is none of the programs that the documents use"
    if program == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M)
        assert {word for word in words if "=" not in word} <= set(targets)
    if words and words[0].endswith(".py"):
        source = (ROOT / words[0]).read_text(encoding="utf-8")
        for option in (word for word in words if word.startswith("--")):
            assert f'"{option}"' in source, f"{words[0]} has no {option}"


@every_document
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(document)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        found = document.parent / name if name else document
        assert found.exists(), f"{target} is not there"
        assert not anchor or anchor in anchors(found), f"{target}: no such heading"


@every_document
def test_commands_are_understood(document: Path) -> None:
    for block in blocks(document, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            understood(line)


@every_document
def test_verbs_and_options_in_the_text_are_there(document: Path) -> None:
    everywhere = {"--constraint"}
    commands = [PESI]
    while commands:
        command = commands.pop()
        everywhere |= options_of(command)
        commands += getattr(command, "commands", {}).values()
    for script in (ROOT / "benchmarks").rglob("*.py"):
        everywhere |= set(re.findall(r'"(--[a-z-]+)"', script.read_text(encoding="utf-8")))
    for span in code_spans(document):
        words = span.split()
        options = {word.split("=")[0] for word in words if word.startswith("--")}
        if words[0] == "pesi" and len(words) > 1 and not words[1].isupper():
            command, _ = verb_of(words[1:])
            assert options <= options_of(command), span
        else:
            assert options <= everywhere, span


@every_document
def test_files_in_the_text_are_there(document: Path) -> None:
    for span in code_spans(document):
        for word in span.split():
            if re.fullmatch(r"(src|tests|benchmarks|docs)/[\w./-]*", word):
                assert (ROOT / word).exists(), f"{word} is not there"


@pytest.mark.parametrize(
    ("line", "wrong"),
    [("pesi predikt mole.jpg", "predikt"), ("pesi predict mole.jpg --bundel b", "--bundel"), ("make cake", "cake")],
)
def test_a_wrong_command_is_found(line: str, wrong: str) -> None:
    with pytest.raises(Exception, match=wrong):
        understood(line)


def test_the_readme_is_one_screen_and_its_commands_are_read() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 80
    (shell,) = blocks(ROOT / "README.md", "sh")
    assert shell.count("\npesi ") >= 8


@every_document
def test_toml_and_python_parse(document: Path, tmp_path: Path) -> None:
    for block in blocks(document, "toml"):
        values = tomllib.loads(block)
        snippet = tmp_path / "snippet.toml"
        snippet.write_text(block, encoding="utf-8")
        if "level" in values:
            assert len(read_triage_rule(snippet).levels) == len(values["level"])
        elif "network" in values:
            assert load_recipe(snippet).network.name == values["network"]["name"]
    for block in blocks(document, "python"):
        compile(block, str(document), "exec")


def test_the_readmes_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    (tmp_path / "photos").mkdir()
    for seed, name in enumerate(("mole.jpg", "photos/a.png", "photos/b.png")):
        drawn = draw_lesion(np.random.default_rng(seed), "MEL").image
        PillowImage.fromarray(drawn).save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    (snippet,) = blocks(ROOT / "README.md", "python")
    values: dict[str, Any] = {}
    exec(compile(snippet, "README.md", "exec"), values)
    said = capsys.readouterr().out
    assert "melanoma" in said
    assert list(values["frame"]["image"]) == ["a", "b"]
    assert values["model"].training


def test_the_architecture_names_what_is_there() -> None:
    package = Path(pesi.__file__).parent
    rooms = {path.stem for path in package.iterdir() if (path / "__init__.py").is_file()}
    rooms |= {path.stem for path in package.glob("*.py")} - {"__init__", "__main__"}
    document = ROOT / "docs" / "architecture.md"
    (drawing,) = [block for block in blocks(document, "") if block.startswith("cli")]
    assert rooms <= set(re.findall(r"\w+", drawing))
    names = [
        span for span in code_spans(document) if re.fullmatch(r"\w+(\.\w+)+", span) and span.split(".")[0] in rooms
    ]
    assert len(names) > 20
    for name in names:
        module, _, attribute = f"pesi.{name}".rpartition(".")
        try:
            found = importlib.import_module(module)
        except ModuleNotFoundError:  # a class's method
            module, _, owner = module.rpartition(".")
            found = getattr(importlib.import_module(module), owner)
        assert hasattr(found, attribute), name


@every_document
def test_extras_and_names_of_the_package_are_there(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for extras in re.findall(r"pesi-cnn\[([\w,]+)\]", text):
        assert set(extras.split(",")) <= set(project["optional-dependencies"])
    if document.name != "CHANGELOG.md":
        for name in re.findall(
            r"\bpesi\.([A-Za-z_]+)\b(?!/)", " ".join((*code_spans(document), *blocks(document, "python")))
        ):
            assert name in pesi.__all__ or importlib.util.find_spec(f"pesi.{name}"), f"pesi.{name} is not there"


def test_every_reader_is_in_the_table_of_data_sets() -> None:
    told = re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "data.md").read_text(encoding="utf-8"), re.M)
    assert sorted(told) == sorted(READERS)


def test_version_is_the_same_everywhere() -> None:
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.findall(r"^version: (.*)$", citation, re.M) == [pesi.__version__]
    released = re.findall(
        r"^## \[(\d\S*)\] - \d{4}-\d\d-\d\d$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M
    )
    assert released[0] == pesi.__version__


def test_what_moved_is_where_the_changelog_says() -> None:
    unreleased = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").split("\n## [")[1]
    moves = re.findall(r"^\| `(pesi\.[^|]*)` \| (`pesi.*) \|$", unreleased, re.M)
    assert moves
    for before, now in moves:
        inside = re.search(r"\{(.*)\}", before)
        names = re.findall(r"`(pesi[\w.]*?)(?:\.\*)?`", now)
        if now.endswith("same names"):
            assert inside
            names = [f"{names[0]}.{name}" for name in inside[1].split(",")]
        for name in names:
            assert importlib.util.find_spec(name) is not None, name
