"""The dial: how much of a fine-tuning to keep, by weight interpolation.

Between the model before and the model after lies a line of weights, ``before + share * (after - before)``, or an arc;
for a LoRA adapter it is the adapter's scale. Every point on it is a model that is scored on the fine-tuning task and on
the probes. Nothing is trained.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from rich.table import Table
from rich.text import Text
from tqdm.auto import tqdm

from forget_callback.metrics.intervals import Interval, wilson
from forget_callback.metrics.knowledge import lost_by_item
from forget_callback.metrics.transitions import pairs_of
from forget_callback.probes.probe import Probe
from forget_callback.probes.quoting import quoted
from forget_callback.report.differences import correlation, mover_difference
from forget_callback.report.fitted import plain_table
from forget_callback.runs.comparison import compare_checkpoints, overall
from forget_callback.runs.formatting import estimate, percent
from forget_callback.runs.rows import Row
from forget_callback.scoring.engine import Scorer
from forget_callback.scoring.likelihood.rendering import bind
from forget_callback.scoring.loading import load_model, load_tokenizer
from forget_callback.snapshots.joined import pool
from forget_callback.snapshots.snapshot import Snapshot

Method: TypeAlias = Literal["linear", "slerp"]
SIGNIFICANT = 0.05


@dataclass(frozen=True, eq=False)
class Point:
    """One model on the line.

    Attributes:
        share: Position between before (0) and after (1).
        task: Its snapshot on the task.
        probes: Its snapshot on each probe.
        change: All items of the probes, compared with share 0.
        lost: Each item's part in `knowledge_lost`, NaN where it has none, ``(n_items,)``.
    """

    share: float
    task: Snapshot
    probes: tuple[Snapshot, ...]
    change: Row
    lost: NDArray[np.float32]

    @property
    def task_interval(self) -> Interval:
        """95% Wilson interval of the accuracy on the task."""
        return self.accuracy_interval(0.95)

    def accuracy_interval(self, confidence: float) -> Interval:
        """Wilson interval of the accuracy on the task."""
        scored = self.task.correct[~np.isnan(self.task.correct)]
        return wilson(float(scored.sum()), len(scored), confidence=confidence)

    @property
    def gain(self) -> float:
        """Task accuracy minus `knowledge_lost`; the best point has the largest."""
        return self.task.accuracy - self.change.value("knowledge_lost")

    def gain_over(self, other: Point, *, confidence: float = 0.95) -> Interval:
        """Interval of how much larger the gain is than another point's; both answered the same items.

        MOVER (Zou and Donner 2008), over the two accuracies and the two losses, each with the correlation of their
        items, and then over these differences: task and probes have no item in common.
        """
        right, lost = (
            mover_difference(a, of_a, b, of_b, correlation(x, y))
            for (a, of_a, x), (b, of_b, y) in zip(other._parts(confidence), self._parts(confidence))
        )
        more = self.task.accuracy - other.task.accuracy
        less = self.change.value("knowledge_lost") - other.change.value("knowledge_lost")
        low = math.hypot(more - right.low, lost.high - less)
        high = math.hypot(right.high - more, less - lost.low)
        return Interval(more - less - low, more - less + high)

    def _parts(self, confidence: float) -> Iterator[tuple[float, Interval, NDArray[np.float32]]]:
        """Task accuracy and `knowledge_lost`, each with its interval and its items."""
        changed = self.change.transitions
        yield self.task.accuracy, self.accuracy_interval(confidence), self.task.correct.astype(np.float32)
        yield changed.knowledge_lost, changed.interval("knowledge_lost", confidence=confidence), self.lost


def turn_dial(
    before: str,
    after: str,
    probes: Sequence[Probe],
    task: Probe,
    *,
    shares: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0),
    method: Method = "linear",
    batch_tokens: int | None = None,
    save: Path | None = None,
) -> list[Point]:
    """Scores models on the line between two, with a progress bar on a terminal.

    Args:
        before: Directory or hub id of the model before.
        after: The same of the model after, or of a LoRA adapter of `before`.
        probes: What must not be forgotten; names must differ.
        task: What the fine-tuning was for.
        shares: Points on the line; 0 is always scored, the others are compared with it.
        method: "linear", or "slerp" for an arc (Shoemake 1985) per tensor, as in model merging.
        save: Directory for the model and tokenizer of the point with the largest gain.

    Returns:
        The points, by share.

    Raises:
        ValueError: If a share is not a number from 0 to 1, names repeat, the two models differ in architecture, or
            `method` is "slerp" for an adapter.
    """
    if any(not 0 <= share <= 1 for share in shares):
        raise ValueError(f"points must be numbers from 0 (before) to 1 (after), got {list(shares)}")
    names = [probe.name for probe in (*probes, task)]
    if not probes or len(set(names)) < len(names):
        raise ValueError(f"one or more probes and a task with different names are needed, got {names}")
    tokenizer = load_tokenizer(before)
    line = _line(before, after, method)
    bound = [bind(probe, tokenizer) for probe in (*probes, task)]
    scorer = Scorer(tokenizer, bound, batch_tokens=batch_tokens)
    first: dict[str, Snapshot] = {}
    points = []
    for share in tqdm(sorted({0.0, *map(float, shares)}), "dial", leave=False, disable=None):
        line.set(share)
        *kept, learned = scorer.score(line.model, progress=True)
        now = {snapshot.probe: snapshot for snapshot in kept}
        first = first or now
        lost = lost_by_item(pairs_of(*(pool(list(side.values())) for side in (first, now))))
        points.append(
            Point(share, learned, tuple(kept), overall(compare_checkpoints(first, now)), lost.astype(np.float32))
        )
    if save is not None:
        line.set(best_point(points).share)
        line.merged().save_pretrained(save)
        tokenizer.save_pretrained(save)
    return points


def best_point(points: Sequence[Point]) -> Point:
    """The point with the highest `gain`; on ties the one nearest to the model before."""
    return max(points, key=lambda point: (point.gain, -point.share))


def as_good(points: Sequence[Point], best: Point) -> list[Point]:
    """The other points whose `gain` is not smaller than the best one's by more than noise.

    One-sided at 5% over all of them (Bonferroni), since the best is chosen after the fact.
    """
    others = [point for point in points if point is not best]
    confidence = 1 - 2 * SIGNIFICANT / max(len(others), 1)
    return [point for point in others if not best.gain_over(point, confidence=confidence).low > 0]


def finding(points: Sequence[Point], best: Point) -> str:
    """Whether there is a best point, in one sentence."""
    same = as_good(points, best)
    if not same:
        return f"{best.share:g} is the best: the others have less by more than noise"
    shares = " and ".join(", ".join(f"{point.share:g}" for point in part) for part in (same[:-1], same[-1:]) if part)
    differ = "does" if len(same) == 1 else "do"
    return (
        f"no point is the best: {best.share:g} has most right less lost, but {shares} {differ} not differ from it by "
        "more than noise; more items would tell"
    )


def _line(before: str, after: str, method: Method) -> _Weights | _Adapter:
    if method not in get_args(Method):
        raise ValueError(f"method must be one of {', '.join(get_args(Method))}, got {quoted(method)}")
    if (Path(after) / "adapter_config.json").is_file():
        if method != "linear":
            raise ValueError(f"{after} is an adapter, which is scaled: method must be 'linear', got {quoted(method)}")
        return _Adapter(before, after)
    return _Weights(load_model(before), load_model(after), method)


class _Weights:
    """All weights, interpolated in float32; the two ends are exact.

    Attributes:
        model: The model before; `set` changes it in place.
    """

    def __init__(self, before: Any, after: Any, method: Method) -> None:
        self.model, self._between = before, _arc if method == "slerp" else torch.lerp
        self._before = {name: p.detach().clone() for name, p in before.named_parameters()}
        self._after = {name: p.detach() for name, p in after.named_parameters()}
        shapes = [{(name, p.shape) for name, p in own.items()} for own in (self._before, self._after)]
        differing = sorted({name for name, _ in shapes[0] ^ shapes[1]})
        if differing:
            raise ValueError(
                f"the models do not match: {len(differing)} parameters differ in name or shape, such as "
                f"{', '.join(differing[:3])}; interpolation needs a model and its own fine-tuning"
            )

    @torch.no_grad()
    def set(self, share: float) -> None:
        """Sets the model's weights to a point on the line."""
        for name, parameter in self.model.named_parameters():
            start, end = self._before[name], self._after[name].to(parameter.device)
            between = start if share == 0 else end if share == 1 else self._between(start.float(), end.float(), share)
            parameter.copy_(between)

    def merged(self) -> Any:
        """The model at its current point."""
        return self.model


def _arc(start: torch.Tensor, end: torch.Tensor, share: float) -> torch.Tensor:
    """Spherical interpolation of two tensors; linear where they are nearly parallel, to avoid dividing by sin(0)."""
    lengths = start.norm() * end.norm()
    cosine = float((start * end).sum() / lengths) if lengths > 0 else 1.0
    if abs(cosine) > 0.9995:
        return torch.lerp(start, end, share)
    angle = math.acos(cosine)
    return (math.sin((1 - share) * angle) * start + math.sin(share * angle) * end) / math.sin(angle)


class _Adapter:
    """A LoRA adapter with its scale reduced; 0 is the model before, bit for bit."""

    def __init__(self, before: str, after: str) -> None:
        from peft import PeftModel
        from peft.tuners.lora import LoraLayer

        self.model = PeftModel.from_pretrained(load_model(before), after).eval()
        layers = [module for module in self.model.modules() if isinstance(module, LoraLayer)]
        if not layers:
            raise ValueError(
                f"{after} has an adapter that is not LoRA; the dial supports LoRA adapters and full models"
            )
        self._scales = [(layer, dict(layer.scaling)) for layer in layers]

    def set(self, share: float) -> None:
        """Sets the model's weights to a point on the line."""
        for layer, scales in self._scales:
            for name, scale in scales.items():
                layer.scaling[name] = scale * share

    def merged(self) -> Any:
        """The model at its current point, with the adapter merged."""
        return self.model.merge_and_unload()


def dial_table(points: Sequence[Point], best: Point, *, task: str) -> Table:
    """The points as a table: the highest and those that do not differ from it are marked, and the caption says it."""
    same = as_good(points, best)
    table = plain_table("How much of the fine-tuning to keep")
    table.caption, table.caption_justify = Text(finding(points, best)), "left"
    for name in ("share", f"{task} right", "knowledge lost", "right less lost"):
        table.add_column(name, justify="right", no_wrap=True)
    for point in points:
        low, high = point.task_interval
        marked = point is best or point in same
        table.add_row(
            f"{'▸ ' if point is best else '▹ ' if marked else ''}{point.share:g}",
            f"{percent(point.task.accuracy)} [{100 * low:.1f}, {100 * high:.1f}]",
            estimate(point.change, "knowledge_lost"),
            percent(max(point.gain, -1.0)),
            style="bold" if marked else "",
        )
    return table
