"""The page that is read first: what ships beside what it may be compared with, then questions with their answers.

What is asked, and which differences answer it, stands in questions.toml; every sentence follows from the numbers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from believing import with_ages
from outcome import Block, counted
from page import cell, markdown
from plots import difference_figure
from scoring import Difference, EnsembleResult, Interval, TableResult

from pesi.bundle.config import BundleConfig
from pesi.bundle.files import CommonConfig, bundle_kind
from pesi.bundle.gate import GateConfig
from pesi.bundle.segmenter import SegmenterConfig
from pesi.errors import PesiError
from pesi.files import write_text
from pesi.predict.tables import ISIC2017_COLUMNS
from pesi.stats.paired import PairedResult

MOST_ROWS = 8  # of a table; more are a figure
MOST_SCORES = 5  # of a bundle, in a line; of more, the first
MARKS = (
    "Marks: [S] read in a public source; [V] computed from the authors' published predictions; [M] as remembered from "
    "the literature, not checked; [E] told by those who hold the labels apart, who scored our predictions."
)


class Answer(NamedTuple):
    """A difference that answers a question; `shown` as its table's rules have it, `why_not` where they forbid it."""

    what: str
    measure: str
    result: PairedResult
    over: str
    shown: bool
    why_not: str = ""

    @property
    def word(self) -> str:
        """Whether it is shown, and which way."""
        if self.shown:
            return f"shown: {'better' if self.result.difference > 0 else 'worse'}"
        return "not shown" + (f" ({self.why_not})" if self.why_not else "")

    @property
    def change(self) -> str:
        """The difference with its interval."""
        low, high = self.result.interval
        value, low, high = (round(number, 3) + 0.0 for number in (self.result.difference, low, high))
        return f"{value:+.3f} ({low:+.3f} to {high:+.3f})"

    @property
    def sentence(self) -> str:
        """The answer in words."""
        return f"**{self.word.capitalize()}**: {self.what} changes the {self.measure} by {self.change}; {self.over}."


class Evidence(NamedTuple):
    """All that can answer."""

    results: Mapping[str, TableResult]
    ensembles: Mapping[str, EnsembleResult]

    def answer(self, name: str, what: str) -> Answer | None:
        """What an entry of questions.toml found; None where no row is finished."""
        kind, _, which = name.partition(" ")
        if kind == "ensemble":
            return _of_ensemble(what, self.ensembles[which]) if which in self.ensembles else None
        if kind == "age":
            return self._age(which, what)
        result = self.results.get(kind)
        differences = [d for d in result.differences if d.variant == which] if result else []
        if result is None or not differences:
            return None
        d = differences[0]
        return Answer(what, result.outcome.headline, d.averaged, over(d.images, d.block), d.shown, _why_not(d))

    def _age(self, table: str, what: str) -> Answer | None:
        result = self.results.get(table)
        aged = with_ages(result.outcome, result.outcome.table.ages) if result and result.outcome.table.ages else None
        if result is None or aged is None:
            return None
        images = over(len(aged.ages), aged.block)
        return Answer(what, result.outcome.headline, aged.gain, images, aged.gain.shown)

    def scores(self, name: str) -> tuple[str, Mapping[str, Interval]] | None:
        """Over which images, and the scores, of a variant or an ensemble that is finished in every fold."""
        kind, _, which = name.partition(" ")
        if kind == "ensemble":
            ensemble = self.ensembles.get(which)
            whole = ensemble is not None and ensemble.splits == ensemble.members[0][0].table.splits
            return (f"{ensemble.images} images", ensemble.averaged) if ensemble is not None and whole else None
        result = self.results.get(kind)
        found = result.scores[which] if result else None
        if result is None or found is None or found.block.splits != result.outcome.table.splits:
            return None
        return f"{found.images} images", found.averaged


def _of_ensemble(what: str, found: EnsembleResult) -> Answer:
    where = over(found.images, Block(found.splits, ()))
    return Answer(what, found.members[0][0].headline, found.gain, where, found.gain.shown)


def over(images: int, block: Block) -> str:
    """Which images, and how many trainings, in few words."""
    folds = "validation" if block.splits == ("official",) else counted(len(block.splits), "fold")
    seeds = [counted(len(block.seeds), "seed")] if block.seeds else []
    return ", ".join([f"{images} images", folds, *seeds])


def _why_not(d: Difference) -> str:
    """Why a difference whose interval excludes zero is not shown."""
    if not d.averaged.shown or d.shown:
        return ""
    if not d.apart:
        return "not of one network against one"
    if d.precisions is not None:
        return "trained in another arithmetic"
    if len(d.seeds) == 1 and not d.same_networks:
        return "the interval excludes zero, but not the luck of one training each"
    return "not without the images that the segmenter had learned from"


def question_section(question: Mapping[str, Any], evidence: Evidence, figures: Path) -> str:
    """Answers in words, then the rest as a table, or as a figure where it is long; empty where nothing is known."""
    first, more = (
        [a for a in (evidence.answer(*entry) for entry in question.get(key, {}).items()) if a]
        for key in ("first", "more")
    )
    if not first and not more:
        return ""
    parts = [f"## {question['title']}", "\n".join(f"- {answer.sentence}" for answer in first)]
    if more:
        better, worse = ([a for a in more if a.shown and a.result.difference * sign > 0] for sign in (1, -1))
        parts.append(
            f"Of {counted(len(more), 'other comparison')}: {_named(better, 'better')}; {_named(worse, 'worse')}."
        )
    if len(first) + len(more) > MOST_ROWS:
        path = figures / f"{re.sub(r'[^a-z]+', '-', question['title'].lower()).strip('-')}.svg"
        measures = " or ".join(dict.fromkeys(a.measure for a in (*first, *more)))
        lines = [(f"{a.what.rstrip(',')}  {a.change}", a.result, a.shown) for a in (*first, *more)]
        write_text(path, difference_figure(lines, measures))
        parts.append(f"![{question['title']}]({figures.name}/{path.name})")
    elif more:
        rows = [[a.what, a.measure, a.change, a.over, a.word] for a in more]
        parts.append(markdown(["what", "measure", "difference", "over", ""], rows))
    if (figures / question.get("figure", "-")).is_file():
        parts.append(f"![{question['title']}]({figures.name}/{question['figure']})")
    return "\n\n".join(part for part in parts if part)


def _named(answers: Sequence[Answer], word: str) -> str:
    names = "; ".join(f"{a.what} {a.change}" for a in answers)
    return f"{len(answers) or 'none'} shown to be {word}" + (f" ({names})" if names else "")


class Shipped(NamedTuple):
    """A bundle that ships: its folder and config (None where it is not here), and what `ship.py` measured of it."""

    name: str
    bundle_id: str
    folder: Path | None
    config: CommonConfig | None
    crossed: Mapping[str, Any]


def read_shipped(bundles: Path, crossed: Path) -> list[Shipped]:
    """The bundles in a folder, and those whose cross-fitted scores are in `crossed`/NAME.json.

    Raises:
        PesiError: Scores are of another bundle than the one of that name.
    """
    scores = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(crossed.glob("*.json"))}
    found = []
    for folder in sorted(path.parent for path in bundles.glob("*/config.json")):
        kinds: dict[str, type[CommonConfig]] = {"segmenter": SegmenterConfig, "gate": GateConfig}
        config = kinds.get(bundle_kind(folder), BundleConfig).read(folder)
        own = scores.pop(folder.name, {})
        if own and own["bundle"] != config.bundle_id:
            what = f"{crossed / folder.name}.json is of {own['bundle']}, not of {config.bundle_id}, which ships."
            raise PesiError(what, f"Write it again: python benchmarks/ship.py make {folder.name}.")
        found.append(Shipped(folder.name, config.bundle_id, folder, config, own))
    return [*found, *(Shipped(name, str(own["bundle"]), None, None, own) for name, own in scores.items())]


def scores_of(values: Mapping[str, Any]) -> dict[str, Interval]:
    """An evaluation's scores (`pesi evaluate`, the audit's, `ship.py`'s) as the page's tables have them."""
    found = {"mean AUC": (values, "mean_auc"), "balanced accuracy": (values.get("multiclass", {}), "balanced_accuracy")}
    found |= {f"{name.replace('_', ' ')} AUC": (task, "auc") for name, task in values["tasks"].items()}
    return {name: (v[key], *v[f"{key}_ci"]) for name, (v, key) in found.items() if v.get(key) is not None}


def shipped_section(
    shipped: Sequence[Shipped], published: Mapping[str, Any], compared: Mapping[str, str], evidence: Evidence
) -> str:
    """What ships, on the test images beside what is published, and out of fold beside other networks of ours."""
    names = [f"{name.replace('_', ' ')} AUC" for name in ISIC2017_COLUMNS] + ["mean AUC"]
    ids = {each.bundle_id for each in shipped}
    rows, told = [], []
    for row in published.get("scored", []):
        whose = "ships" if row["bundle"] in ids else "shipped earlier"
        told += [tuple(row["mean"])] if row["bundle"] in ids else []
        rows.append([f"**{whose}**: `{row['bundle']}` [E]", f"test, {row['copies']}", "", "", cell(row["mean"])])
    rows += [[r["model"], "test", r.get("melanoma", ""), r.get("sk", ""), r["mean"]] for r in published["rows"]]
    for each in shipped:
        if each.crossed:
            scores = scores_of(each.crossed)
            what = f"**ships**: `{each.bundle_id}`, cross-fitted"
            if len(each.crossed["tasks"]) > len(ISIC2017_COLUMNS) and "balanced accuracy" in scores:
                what += f"; balanced accuracy {cell(scores['balanced accuracy'])}"
            values = [cell(scores[name]) if name in scores else "" for name in names]
            rows.append([what, f"out of fold, {each.crossed['images']} images", *values])
    for name, what in compared.items():
        found = evidence.scores(name)
        if found:
            rows.append([what, f"out of fold, {found[0]}", *(cell(found[1][measure]) for measure in names)])
    parts = ["## What ships, and what it may be compared with", _on_test(told, published)]
    parts += [markdown(["model", "images", *names], rows), MARKS]
    parts.append(
        "Rows on the official test images, whose labels are held apart, may be compared with one another; out-of-fold "
        "rows (each image answered by networks that have not seen it) only among themselves. What comes with it:"
    )
    return "\n\n".join([*parts, "\n".join(map(_card_line, shipped)), *_promises(shipped)])


def _on_test(told: Sequence[Interval], published: Mapping[str, Any]) -> str:
    if not told:
        return "What ships now has not been scored on the official test images, whose labels are held apart."
    best = max(told)
    others = [float(row["mean"]) for row in published["rows"]]
    above, below = sum(other > best[2] for other in others), sum(other < best[1] for other in others)
    return (
        f"The classifier that ships has a mean AUC of {cell(best)} on the official test images. Of {len(others)} "
        f"published results {above or 'none'} lie above that interval, {len(others) - above - below} within and "
        f"{below or 'none'} below it."
    )


def _card_line(each: Shipped) -> str:
    if each.config is None or each.folder is None:
        return f"- `{each.bundle_id}`"
    size = sum(path.stat().st_size for path in each.folder.glob("model*.safetensors")) / 1e6
    line, measured = f"- {each.config.kind} `{each.bundle_id}`, {size:.1f} MB", each.config.measured
    if measured is None:
        return line
    scores = [f"{name.replace('_', ' ')} {cell(score)}" for name, score in measured.scores.items()]
    told = scores if len(scores) <= MOST_SCORES else scores[:1]
    return f"{line}: {', '.join(told)} on {measured.images} images: {measured.on}"


def _promises(shipped: Sequence[Shipped]) -> list[str]:
    """What prediction sets and triage levels of cross-fitted bundles promise, and what they did."""
    rows, kept, count = [], 0, 0
    for each in shipped:
        decided = each.crossed.get("cross_fitted", {})
        for wanted, sets in decided.get("coverage", {}).items():
            for name, held in sets["classes"].items():
                if held["share"] is None:
                    continue
                within = held["ci"][0] <= float(wanted) <= held["ci"][1]
                kept, count = kept + within, count + 1
                what = f"sets hold the truth: {name.replace('_', ' ')}"
                rows.append([each.name, what, wanted, _share(held) + ("" if within else ", **outside**")])
        for level in decided.get("triage", []):
            did = f"{_share(level['malignant_below'])} of the malignant are below it, "
            did += f"{_share(level['benign_at_or_above'])} of the benign at it or above"
            rows.append([each.name, f"triage `{level['level']}`", level["promise"], did])
    if not rows:
        return []
    said = f"The wanted coverage lies within the interval of {kept} of {count} classes and levels of prediction sets."
    return ["### What it promises, and keeps", said, markdown(["bundle", "", "promised", "cross-fitted"], rows)]


def _share(part: Mapping[str, Any]) -> str:
    return "none" if part["share"] is None else cell((part["share"], *part["ci"]))


def elsewhere_section(shipped: Sequence[Shipped], published: Mapping[str, Any]) -> str:
    """What the audit of a bundle that ships found on another source, and what others told."""
    answers, rows = [], []
    for each in shipped:
        audit = each.folder / "audit.json" if each.folder else None
        if not isinstance(each.config, BundleConfig) or audit is None or not audit.is_file():
            continue
        sets = json.loads(audit.read_text(encoding="utf-8"))["sets"]
        found = [(one, one["sections"]["performance"]["values"]) for one in sets if "performance" in one["sections"]]
        found = [(one, values) for one, values in found if values.get("mean_auc") is not None]
        home = next(((one, values) for one, values in found if one["fitted_on"]), None)
        for one, values in found:
            scores = scores_of(values)
            what = f"{one['name']}, {one['images']} images" + (", which decided for it" if one["fitted_on"] else "")
            told = [cell(scores[name]) if name in scores else "" for name in ("mean AUC", "melanoma AUC")]
            rows.append([f"`{each.bundle_id}`", what, *told, _sets_told(one)])
            if home and not one["fitted_on"]:
                own = scores_of(home[1])["mean AUC"]
                apart = scores["mean AUC"][2] < own[1]
                words = ("Less far, shown", "do not overlap") if apart else ("Not shown to be less far", "overlap")
                answers.append(
                    f"- **{words[0]}**: `{each.bundle_id}` has a mean AUC of {cell(scores['mean AUC'])} on "
                    f"{one['name']}, against {cell(own)} on {home[0]['name']}: the intervals {words[1]}."
                )
    ids = {each.bundle_id for each in shipped}
    for row in published.get("elsewhere", []):
        earlier = "" if row["bundle"] in ids else ", an earlier bundle"
        rows.append([f"`{row['bundle']}`{earlier}", f"{row['source']} [E]", "", row["melanoma"], ""])
    if not rows:
        return ""
    head = ["bundle", "source", "mean AUC", "melanoma AUC", "its own 90 % sets hold the truth"]
    note = "`pesi audit` measured the first rows (each bundle's `audit.json`); [E] told by others, without an interval."
    return "\n\n".join(
        ["## How far on another source?", *(["\n".join(answers)] if answers else []), markdown(head, rows), note]
    )


def _sets_told(one: Mapping[str, Any]) -> str:
    told = one["sections"].get("uncertainty", {}).get("values", {}).get("conformal_of_the_bundle") or {}
    return _share(told["0.90"]["overall"]) if "0.90" in told else ""


def page_text(
    evidence: Evidence,
    shipped: Sequence[Shipped],
    asked: Mapping[str, Any],
    published: Mapping[str, Any],
    page: Path,
    tables: Path,
) -> str:
    """The whole page; its figures are written.

    Args:
        evidence: All that is computed.
        shipped: What ships.
        asked, published: questions.toml and published.toml.
        page: Where the page will stand, and its figures beside it.
        tables: The page of the long tables, beside it.
    """
    figures = page.with_suffix("")
    parts = [
        "# Results",
        "Written by `python benchmarks/results.py --data DIR ...` from per-image predictions that stand in the "
        "repository (`benchmarks/*/*.parquet`): anyone can score them again. All tables: "
        f"[{tables.name}]({tables.name}). 95 % intervals in brackets. A difference is *shown* where its intervals "
        "exclude zero and nothing but what its name says, not even the luck of single trainings, lies between the two "
        f"([in full]({tables.name}#how-to-read-the-tables)); not shown is not the same as no difference.",
        shipped_section(shipped, published, asked["out_of_fold"], evidence),
        *(question_section(question, evidence, figures) for question in asked["questions"]),
        elsewhere_section(shipped, published),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"
