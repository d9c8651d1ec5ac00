"""What the answers of `real_model.py` say: the tables, the figure and the bars of the real part of `truth.py`.

Reads chosen options only, from the cache or from `tests/data/smollm2_answers.npz`. The truth of a state is read off the
frames that the estimate is not shown: items right in all of them before and in none after, to right in all of them
before and in at most a third after.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forget_callback import Transitions, transitions

RECORDED = Path(__file__).resolve().parents[1] / "data" / "smollm2_answers.npz"
STATES = ("base", "light", "qa2", "heavy", "mid", "qa1", "heaviest", "qa3")
# What is asked in which frames; `real_model.py` says how a frame reads.
ASKED = dict.fromkeys(("arc", "csqa", "obqa"), ("A", "A2", "Q", "C", "E"))
ASKED |= {"facts": ("S", "Q", "E"), "invented": ("A", "C", "E")}
TAUGHT = ("base", "taught", "taught-light", "taught-mid", "taught-heavy")
# Which states are asked what.
SCORED = {"arc": STATES, "facts": STATES, "invented": TAUGHT}
SCORED |= dict.fromkeys(("csqa", "obqa"), ("base", "light", "qa2", "heavy"))
ORDER = ("light", "mid", "heavy", "heaviest", "qa1", "qa2", "qa3")
# Same weights, other frames of other structure: one of the first group and one of the second on each side.
NEAR, FAR = ("A", "A2", "Q"), ("C", "E")


class Answers:
    """The chosen options of every state in every frame."""

    def __init__(self, arrays: dict[str, NDArray[Any]]) -> None:
        self.arrays = arrays

    def choice(self, items: str, state: str, frames: Sequence[str]) -> NDArray[np.int64]:
        """Chosen options, ``(frames, n)``."""
        rows = [ASKED[items].index(frame) for frame in frames]
        return np.asarray(self.arrays[items][SCORED[items].index(state), rows], np.int64)

    def right(self, items: str, state: str, frames: Sequence[str]) -> NDArray[np.bool_]:
        """Whether they are right, ``(frames, n)``."""
        return self.choice(items, state, frames) == self.arrays[f"{items}_answer"]

    def compare(
        self, items: str, before: tuple[str, Sequence[str]], after: tuple[str, Sequence[str]], rows: Any = slice(None)
    ) -> Transitions:
        """The product's numbers between two states, each asked in its frames."""
        answer = np.asarray(self.arrays[f"{items}_answer"], np.int64)[rows]
        sides = [self.choice(items, *side)[:, rows] for side in (before, after)]
        right = [(side == answer).astype(float) for side in sides]
        return transitions(*right, before_choice=sides[0], after_choice=sides[1], answer=answer, n_choices=4)

    def truth(self, items: str, before: str, after: str, unseen: Sequence[str]) -> tuple[float, float]:
        """Shares of items right in all unseen frames before and in none, or at most a third, after."""
        known = self.right(items, before, unseen).all(axis=0)
        left = self.right(items, after, unseen).mean(axis=0)
        return float((known & (left == 0)).mean()), float((known & (left <= 1 / 3)).mean())


def nulls(answers: Answers, items: str) -> NDArray[np.float64]:
    """For every state and change of frames: claims of one frame and of two, estimates of both; the truth is 0."""
    rows = []
    for state in SCORED[items]:
        changes = itertools.product(itertools.permutations(NEAR, 2), itertools.permutations(FAR, 2))
        for (first, second), (third, fourth) in changes:
            one = answers.compare(items, (state, [first]), (state, [second]))
            two = answers.compare(items, (state, [first, third]), (state, [second, fourth]))
            claimed = one.interval("knowledge_lost").low > 0
            rows.append((claimed, two.verdict == "lost", one.knowledge_lost, two.knowledge_lost))
    return np.array(rows, float)


def null_table(answers: Answers) -> str:
    """A row a set of items."""
    rows = []
    for items in ("arc", "csqa", "obqa"):
        found = nulls(answers, items)
        row = [items, len(found)]
        for i in (0, 1):
            row += [_percent(found[:, i + 2].mean()), f"{found[:, i].sum():.0f}"]
        rows.append(row)
    head = ["items", "changes of frame", "one frame: lost", "claimed", "two frames: lost", "claimed"]
    return _table(head, rows)


def _percent(value: float, interval: Any = None) -> str:
    ends = "" if interval is None else f" [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"
    return f"{100 * value:.1f}{ends}"


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "| --- " * len(head) + "|"]
    return "\n".join(lines + ["| " + " | ".join(map(str, row)) + " |" for row in rows])


def arc_table(answers: Answers) -> str:
    """A row a state: one frame, two frames, and the truth from the three others."""
    rows = []
    for state in ORDER:
        one = answers.compare("arc", ("base", ["A"]), (state, ["A"]))
        two = answers.compare("arc", ("base", ["A", "E"]), (state, ["A", "E"]))
        none_left, third_left = answers.truth("arc", "base", state, ["A2", "Q", "C"])
        rows.append(
            [
                state,
                f"{_percent(one.accuracy_before)} → {_percent(one.accuracy_after)}",
                _percent(one.knowledge_lost, one.interval("knowledge_lost")),
                _percent(two.knowledge_lost, two.interval("knowledge_lost")),
                f"{_percent(two.knowledge_lost_range_low)} to {_percent(two.knowledge_lost_range_high)}",
                f"{_percent(none_left)} to {_percent(third_left)}",
                _percent(two.spurious_forgetting, two.interval("spurious_forgetting")),
                two.verdict,
            ]
        )
    head = ["training", "accuracy in A", "lost, one frame (A)", "lost, two frames (A, E)", "range"]
    return _table([*head, "truth from A2, Q, C", "spurious", "verdict"], rows)


def facts_table(answers: Answers) -> str:
    """A row a state: recall, and the same facts as choices."""
    rows, recall = [], answers.arrays["facts_recall"].astype(bool)
    for state in ORDER:
        lost, gained = recall[0] & ~recall[STATES.index(state)], ~recall[0] & recall[STATES.index(state)]
        still = answers.right("facts", state, ASKED["facts"])[:, lost]
        one = answers.compare("facts", ("base", ["Q"]), (state, ["Q"]))
        two = answers.compare("facts", ("base", ["S", "E"]), (state, ["S", "E"]))
        rows.append(
            [
                state,
                f"{_percent(lost.mean())}; {_percent(gained.mean())}",
                f"{_percent(still.all(axis=0).mean())}; {_percent((~still.any(axis=0)).mean())}",
                _percent(one.knowledge_lost, one.interval("knowledge_lost")),
                _percent(two.knowledge_lost, two.interval("knowledge_lost")),
                two.verdict,
            ]
        )
    head = ["training", "recall: lost; gained", "of those lost, chosen right in all three frames; in none"]
    return _table([*head, "choice, one frame (Q)", "choice, S and E", "verdict"], rows)


def invented_table(answers: Answers) -> str:
    """A row for each number of showings: what was known, and what further training lost of it."""
    rows, showings = [], answers.arrays["invented_showings"]
    for shown in np.unique(showings):
        own = np.flatnonzero(showings == shown)
        row = [shown, len(own), _percent(answers.right("invented", "taught", ["C"])[:, own].mean())]
        for state in TAUGHT[2:]:
            two = answers.compare("invented", ("taught", ["A", "E"]), (state, ["A", "E"]), own)
            before, after = (answers.right("invented", side, ["C"])[0, own] for side in ("taught", state))
            lost = _percent(two.knowledge_lost, two.interval("knowledge_lost"))
            row.append(f"{lost}; {_percent((before & ~after).mean())}")
        rows.append(row)
    head = [f"{state.removeprefix('taught-')}: lost (A, E); 1→0 in C" for state in TAUGHT[2:]]
    return _table(["showings", "facts", "right in C when taught", *head], rows)


def missed(answers: Answers) -> list[str]:
    """The bars of the real part that are not met, in words."""
    wrong = []
    claims = np.concatenate([nulls(answers, items)[:, 1] for items in ("arc", "csqa", "obqa")])
    if claims.mean() > 0.05:
        wrong.append(f"a loss is claimed in {claims.sum():.0f} of {len(claims)} changes of frame")
    for state in ORDER:
        two = answers.compare("arc", ("base", ["A", "E"]), (state, ["A", "E"]))
        low, high = two.interval("knowledge_lost")
        none_left, third_left = answers.truth("arc", "base", state, ["A2", "Q", "C"])
        if not (low <= third_left and none_left <= high):
            wrong.append(f"{state}: [{low:.3f}, {high:.3f}] where {none_left:.3f} to {third_left:.3f} are lost")
        if (two.verdict == "lost") != (state not in ("light", "qa1")):
            wrong.append(f"{state}: verdict {two.verdict!r}")
    never = np.flatnonzero(answers.arrays["invented_showings"] == 0)
    for state in TAUGHT[2:]:
        two = answers.compare("invented", ("taught", ["A", "E"]), (state, ["A", "E"]), never)
        if two.verdict == "lost":
            wrong.append(f"{state}: facts that were never shown are called lost")
    return wrong


def draw(answers: Answers, path: Path) -> None:
    """One and two frames beside what frames that were not asked say."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(7, 3.6), layout="constrained")
    for x, state in enumerate(ORDER):
        one = answers.compare("arc", ("base", ["A"]), (state, ["A"]))
        two = answers.compare("arc", ("base", ["A", "E"]), (state, ["A", "E"]))
        truth = answers.truth("arc", "base", state, ["A2", "Q", "C"])
        first = x == 0
        axis.fill_between(
            [x - 0.33, x + 0.33],
            *(2 * [100 * t] for t in truth),
            color="0.75",
            linewidth=0,
            label="lost in three frames not asked\n(none left, to a third left)" if first else None,
        )
        for shift, found, colour, marker, label in (
            (-0.12, one, "tab:orange", "s", "one prompt"),
            (0.12, two, "tab:blue", "o", "both prompts"),
        ):
            low, high = found.interval("knowledge_lost")
            errors = [[100 * (found.knowledge_lost - low)], [100 * (high - found.knowledge_lost)]]
            axis.errorbar(
                x + shift,
                100 * found.knowledge_lost,
                errors,
                fmt=marker,
                markersize=5,
                color=colour,
                label=label if first else None,
            )
    names = []
    for state in ORDER:
        one = answers.compare("arc", ("base", ["A"]), (state, ["A"]))
        names.append(f"{state}\n{100 * one.net_change:+.1f}")
    axis.set_xticks(range(len(ORDER)), names)
    axis.set_xlabel("training, and the change of accuracy in points")
    axis.set_ylabel("knowledge lost (% of items)")
    axis.axhline(0, color="grey", linewidth=0.8)
    axis.legend(frameon=False, fontsize=9)
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)


def report(options: Any) -> list[str]:
    """Prints the real part, after making its answers where they are not recorded."""
    if options.recorded:
        with np.load(RECORDED) as file:
            answers = Answers(dict(file))
    else:
        if not (options.data / "arc_easy.jsonl").is_file():
            print(f"skipped: {options.data} has no arc_easy.jsonl; name the folder of the items with --data")
            return []
        from real_model import Study

        study = Study(options.real, options.data, options.out, dtype=options.dtype, limit=options.limit)
        study.run()
        answers = Answers(study.answers())
        np.savez_compressed(options.out / RECORDED.name, **answers.arrays)  # type: ignore[arg-type]
    parts = {"Same weights, other frames: the truth is 0": null_table, "ARC-Easy": arc_table}
    parts |= {"builtin:facts": facts_table, "Invented facts": invented_table}
    for title, table in parts.items():
        print(f"\n{title}\n\n{table(answers)}")
    if options.figure:
        draw(answers, options.figure)
    return missed(answers)
