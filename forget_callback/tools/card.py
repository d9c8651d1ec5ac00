"""The forgetting passport: what a run says in the card of the model that it made.

A section in Markdown, results for the card's model-index, a badge, and the snapshots as a dataset. The sentences are
those of `runs/headline` and the numbers those of the history: nothing is computed here. A run that did not end whole
has no passport, unless it is asked for, and then it says so.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from huggingface_hub import EvalResult

from forget_callback.metrics.knowledge import MIN_ITEMS
from forget_callback.probes.plurals import are, counted, were
from forget_callback.probes.quoting import code, markdown, printable
from forget_callback.report.abilities_table import abilities_markdown
from forget_callback.report.badge import Badge, badge
from forget_callback.report.run import Run
from forget_callback.report.terminal import is_few, legend, lost_cell, marks_of
from forget_callback.runs.abilities import is_mixed
from forget_callback.runs.comparison import overall, without_texts
from forget_callback.runs.formatting import estimate, percent, share, span
from forget_callback.runs.headline import Headline, headline, worst_first
from forget_callback.runs.rows import Row
from forget_callback.runs.run_at import open_run
from forget_callback.runs.sentences import words_of
from forget_callback.runs.side_by_side import LEGEND
from forget_callback.runs.store import Store
from forget_callback.runs.training import short_name
from forget_callback.tools.card_commands import HOME, reproduce, version_of
from forget_callback.tools.model_card import SOURCE
from forget_callback.training.trackers import scalars

BADGE_FILE = "forgetting.svg"
_NO_BREAK = "\u00a0"
_LONG_TABLE = 16  # rows; longer ones are folded
_LIMITS = {
    "unclear": "“Unclear” is no pass: these items cannot show whether something was lost.",
    "moved": "A loss is not established, and not excluded either.",
    "none": "“No loss shown” is not “nothing lost”: the sentence above says how much may be.",
}


@dataclass(frozen=True)
class Passport:
    """What a card says of one step of a run.

    Attributes:
        run: The run, read.
        step: The step whose model the card is of.
        rows: Of that step, of all probes and categories.
        gaps: In which ways the record is not that of a whole run, a sentence each.
        texts: Whether prompts and answers may be in what is said, such as the one answer that all items get.
    """

    run: Run
    step: int
    rows: tuple[Row, ...]
    gaps: tuple[str, ...]
    texts: bool

    @property
    def headlines(self) -> list[Headline]:
        """Of each probe, the worst first."""
        return worst_first([headline(row, among=self.rows) for row in self.whole])

    @property
    def whole(self) -> list[Row]:
        """The rows of whole probes, without the pool of them all."""
        return [row for row in self.rows if not row.category and row.probe != "all"]

    @property
    def badge(self) -> Badge:
        """The badge of that step."""
        measured = {row.probe for row in self.whole}
        missed = self.run.manifest["run"]["not_measured"]
        dropped = {one["probe"] for one in missed if one["probe"] and one["step"] is None and one.get("items") is None}
        return badge(self.rows, incomplete=self.gaps, dropped=sorted(dropped - measured))


def passport(
    source: str | os.PathLike[str] | Store, *, allow_incomplete: bool = False, texts: bool = False
) -> Passport:
    """What there is to say of a run's last step, or of the one that RUN@STEP names.

    Args:
        allow_incomplete: Whether a run that did not end whole has one as well. A step that is named needs no whole run;
            what the record lacks is in the gaps in both cases.
        texts: Whether prompts and answers may be in it: what is public, or `upload="all"`.

    Raises:
        ValueError: If there is no run, nothing to compare, or the run did not end whole.
    """
    store, step = (source, None) if isinstance(source, Store) else _named(source)
    run = Run(store)
    if run.incomplete and step is None and not allow_incomplete:
        raise ValueError(
            f"{store.path} is not the record of a whole run: {'; '.join(run.incomplete)}. A card would claim more than "
            "was measured: let the run end, name the step whose model you release (RUN@STEP), or have the card say so: "
            "--allow-incomplete"
        )
    at = run.steps[-1] if step is None else step
    rows = tuple(row for row in run.history.rows if row.step == at)
    if not rows:
        raise ValueError(f"{store.path} has no evaluation of all probes at step {at}; has {run.steps}")
    if at == run.steps[0] and not run.other_baseline:
        raise ValueError(
            f"{store.path}: step {at} is the baseline itself: nothing to compare yet, and no card of it; with "
            "`snapshot` score the model and, as --baseline, the one before it"
        )
    shown = rows if texts else without_texts(rows)
    return Passport(run, at, tuple(shown), tuple(store.incomplete(texts=texts)), texts)


def _named(source: str | os.PathLike[str]) -> tuple[Store, int | None]:
    named = open_run(source)
    return named.store, named.step


def section(found: Passport, *, dataset: str = "", image: str = BADGE_FILE, repo: str = "") -> str:
    """The section of the card, as Markdown without its markers.

    Args:
        dataset: Link to the snapshots, "" where there is none.
        image: Where the badge is, as the card sees it.
        repo: Hub id of the model, "" where it is not known.
    """
    marks, mixed = marks_of(found.rows), is_mixed(found.rows)
    few = [row for row in found.rows if row.category and is_few(row) and (row.probe, row.category) not in marks]
    every = [row for row in found.rows if row not in few]
    rows = [row for row in every if not row.category] if len(every) > _LONG_TABLE else every
    table = abilities_markdown(found.rows) if mixed else _table(rows, marks)
    if len(rows) < len(every) and not mixed:
        table += f"\n\n<details><summary>By category</summary>\n\n{_table(every, marks)}\n\n</details>"
    said = (LEGEND,) if mixed else (*_left_out(found, few), *legend(every, marks))
    notes = [f"*{markdown(line)}*" for line in said]
    data = f"Every item's result at every step, and the history: [dataset]({dataset})." if dataset else ""
    parts = [
        "## Forgetting: what training cost, and what it brought",
        f"![{markdown(found.badge.text)}]({image})",
        "\n".join(f"> **Not a whole run:** {markdown(gap)}" + "  " for gap in found.gaps),
        *_findings(found),
        "**What was measured**",
        "\n".join(f"- {line}" for line in _about(found)),
        table,
        *notes,
        "**What this does not say**",
        "\n".join(f"- {line}" for line in _limits(found)),
        "**Reproduce it**",
        reproduce(found.run, published=found.texts, repo=repo),
        data,
    ]
    return "\n\n".join(part for part in parts if part)


def _findings(found: Passport) -> list[str]:
    """Each probe's sentence, the numbers behind it, and what stands beside it; of several abilities one sentence."""
    rows, parts = {row.probe: row for row in found.whole}, []
    joint = len(overall(found.rows).transitions.abilities) > 1
    if joint:
        parts.append(f"**{markdown(headline(overall(found.rows), among=found.rows).sentence)}.**")
    for said in found.headlines:
        row = rows[said.probe]
        gained = row.value("knowledge_gained")
        verb = words_of(row.transitions).new
        more = "" if math.isnan(gained) else f"; {verb} {estimate(row, 'knowledge_gained')}"
        lines = [markdown(said.detail + more), *map(markdown, said.notes)]
        if found.run.stage.number > 1 and not math.isnan(row.value("stage_knowledge_lost")):
            lines.append(f"in this stage alone {share(row, 'stage_knowledge_lost')} lost")
        parts.append(f"{markdown(said.probe)}:" if joint else f"**{markdown(said.probe)}: {markdown(said.sentence)}.**")
        parts.append("\n".join(f"- {line}" for line in lines))
    return parts


def _left_out(found: Passport, few: Sequence[Row]) -> list[str]:
    """That categories are in no row, for too few of their items were scored to say anything of each."""
    if not few:
        return []
    of = sum(bool(row.category) for row in found.rows)
    verb = "has" if len(few) == 1 else "have"
    return [
        f"{len(few)} of {of} categor{'y' if of == 1 else 'ies'} {verb} too few items (fewer than {MIN_ITEMS}) to tell "
        "how much was lost, and no row here; their items count in the whole"
    ]


def _table(rows: Sequence[Row], marks: Mapping[tuple[str, str], str]) -> str:
    """A row a probe and category; numbers are not broken into lines."""
    lines = [
        "| | items | right before → after | right → wrong | wrong → right | lost | range |",
        "| --- " + "| ---: " * 6 + "|",
    ]
    for row in rows:
        t = row.transitions
        name = markdown(row.category) or f"**{markdown(row.probe)}**"
        cells = [
            str(t.n),
            f"{percent(t.accuracy_before)} → {percent(t.accuracy_after)}",
            percent(t.forgetting),
            percent(t.backward_transfer),
            lost_cell(row) + markdown(marks.get((row.probe, row.category), "")),
            span(row).removeprefix("range "),
        ]
        lines.append(f"| {name} | {' | '.join(cell.replace(' ', _NO_BREAK) for cell in cells)} |")
    return "\n".join(lines)


def _about(found: Passport) -> list[str]:
    """What was compared, against what, after how much training, on which items."""
    run, row = found.run, found.rows[0]
    seen = "" if math.isnan(row.samples_seen) else f", after {row.samples_seen:,.0f} training samples"
    compared = f"Compared: {_baseline(found)} with step {found.step:,}{seen}"
    lines = [compared]
    if source := run.manifest.get("source"):
        names = ", ".join(short_name(one) for one in source.split(", "))
        lines = [f"Compared: the first and the last of these logs: {markdown(names)}"]
    if run.training.sentence:
        lines.append(f"Training: {markdown(run.training.sentence)}")
    for probe in run.probes:
        lines.append(f"Probe {code(probe.name)}: {counted(len(probe))}, fingerprint {code(probe.fingerprint[:16])}")
    return [*lines, f"Measured item by item with [forget-callback]({HOME}) {version_of(run)}"]


def _baseline(found: Passport) -> str:
    run = found.run
    if run.stage.number > 1:
        before = f"{run.stage.samples_before:,.0f} training samples"
        return f"the model before the first stage (this is stage {run.stage.number}; {before} came before it)"
    if run.other_baseline:
        return "a baseline of its own (another model than the first step's: of an adapter the base model)"
    return f"the model at step {run.steps[0]:,}" + (" (before this training)" if run.steps[0] == 0 else "")


def _limits(found: Passport) -> list[str]:
    of = "the model of the last log" if found.run.manifest.get("source") else f"the weights of step {found.step:,}"
    lines = [f"It is about these items, and about {of}; what no item asks can be lost unseen."]
    single = [row.probe for row in found.whole if row.transitions.in_this_prompt and not row.transitions.bits]
    several = max((row.transitions.variants for row in found.whole if row.probe not in single), default=0)
    if several:
        lines.append(
            f"Items were asked in {several} prompts, and what is gone in all of them counts as lost; another prompt "
            "may still bring it back."
        )
    if single:
        lines.append(
            f"{', '.join(map(code, single))}: one prompt cannot tell lost knowledge from lost form; the claim is "
            "“in this prompt”."
        )
    if any(not math.isnan(row.value("knowledge_lost_range_high")) for row in found.whole):
        lines.append(
            "Brackets are 95% intervals of the estimate; the range also holds where guesses are not what the "
            f"estimate takes them for ([statistics]({HOME}/blob/main/docs/statistics.md))."
        )
    verdicts = {said.verdict: "" for said in found.headlines}
    if len(verdicts) > 1:  # whose
        verdicts = {
            verdict: f"{', '.join(code(said.name) for said in found.headlines if said.verdict == verdict)}: "
            for verdict in verdicts
        }
    lines += [f"{whose}{_LIMITS[verdict]}" for verdict, whose in verdicts.items() if verdict in _LIMITS]
    for row in found.whole:
        t = row.transitions
        if t.n_unscored:
            left = f"{counted(t.n_unscored)} {were(t.n_unscored)} not scored both times"
            lines.append(f"{code(row.probe)}: {left}, and {are(t.n_unscored)} in no number.")
    return lines


def results(found: Passport, *, dataset: str = "") -> list[EvalResult]:
    """The numbers of whole probes for the card's model-index: the main metrics, as trackers get them.

    Args:
        dataset: Hub id of the dataset of snapshots, "" where there is none.
    """
    sampled = {probe.name for probe in found.run.probes if probe.sampled}
    fingerprints = {probe.name: probe.fingerprint for probe in found.run.probes}
    made = []
    for row in found.whole:
        named = {name.rpartition("/")[2]: value for name, value in scalars([row], sampled=sampled).items()}
        for metric, value in named.items():
            if metric.endswith(("_low", "_high")):
                continue
            made.append(
                EvalResult(
                    task_type="text-generation",
                    task_name="Forgetting",
                    dataset_type=dataset or printable(row.probe),
                    dataset_name=printable(row.probe),
                    dataset_config="snapshots" if dataset else None,
                    dataset_revision=fingerprints[row.probe],
                    metric_type=metric,
                    metric_name=metric.replace("_", " "),
                    metric_value=_rounded(value),
                    metric_args=_arguments(found, row, metric),
                    source_name=SOURCE,
                    source_url=HOME,
                )
            )
    return made


def _arguments(found: Passport, row: Row, metric: str) -> dict[str, Any]:
    """What a number says nothing without: its interval, items, verdict, and when it was."""
    numbers = row.numbers
    known: dict[str, Any] = {}
    for end in ("low", "high"):
        value = float(numbers.get(f"{metric}_{end}", math.nan))
        known |= {} if math.isnan(value) else {end: _rounded(value)}
    known |= {"confidence": 0.95} if known else {}
    said = headline(row)
    seen = {} if math.isnan(row.samples_seen) else {"samples_seen": int(row.samples_seen)}
    gaps = {"not_a_whole_run": list(found.gaps)} if found.gaps else {}
    return {**known, "verdict": said.verdict, "items": row.transitions.n, "step": row.step, **seen, **gaps}


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")
