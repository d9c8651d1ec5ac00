"""What a probe's items can show, before training: the smallest loss that is found, and the items that a loss needs.

By simulation of the verdict: known items are lost at random and guessed from then on, the other guesses move. Starts
from the answers at a baseline, or without a model from assumptions, which are the constants here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from math import ceil, nan, sqrt
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtri

from forget_callback.metrics.abilities import tells_of_knowledge
from forget_callback.metrics.knowledge import MIN_ITEMS, MOST, entering
from forget_callback.metrics.pairs import Flags, Floats, Ints, Pairs, paired
from forget_callback.metrics.transitions import Transitions, compare_groups, pairs_of
from forget_callback.metrics.verdict import LEVEL
from forget_callback.probes.plurals import counted
from forget_callback.probes.probe import Probe
from forget_callback.runs.formatting import percent
from forget_callback.runs.stop_rules import StopRule
from forget_callback.snapshots.joined import pool
from forget_callback.snapshots.snapshot import Snapshot

POWER = 0.8  # found in four of five runs
KNOWN = 0.4  # share of the items known, where there is no baseline
AGREEMENT = 0.3  # of the guesses are the same in all prompts: what they are on a small pretrained model
PERSISTENCE = 0.6  # of the guesses training leaves as they are: .9 after light training, .3 after heavy
HARDLY = 0.5  # below that share of runs a loss is rather missed than found
N_RUNS = 120
AT_START = 24  # runs, when a training starts: a quarter of a second
_MOST_SIMULATED = 2000  # items; more count by the square root of their number
_NEEDS = float(-ndtri(LEVEL))


@dataclass(frozen=True, eq=False)
class Items:
    """The items that the verdict is about, those that enter `knowledge_lost`.

    Attributes:
        n_choices: Options of each, infinite where open-ended, ``(n,)``.
        asked: Which prompts each has, ``(n_prompts, n)``.
        weak: Whether a prompt is words around the first one only, ``(n_prompts, n)``.
        cluster: Number of the cluster of each; None if all stand alone, ``(n,)``.
        known: Share known at the baseline.
        option: Chosen option at the baseline, 0 where it is right, -1 where none could be read; None without a
            baseline, ``(n_prompts, n)``.
        samples: Answers that are sampled to each, ``(n,)``; where several, `share` of them is right.
        share: ``(n_prompts, n)``, at the baseline; None where answers are greedy, or without a baseline.
    """

    n_choices: Floats
    asked: Flags
    weak: Flags
    cluster: Ints | None
    known: float
    option: Ints | None = None
    samples: Ints | None = None
    share: Floats | None = None

    def __len__(self) -> int:
        return len(self.n_choices)

    @property
    def in_two_prompts(self) -> bool:
        """Whether a claim about them is not one of a single prompt."""
        strong = (self.asked & ~self.weak).sum(axis=0) > 1
        return bool(len(self) and strong.mean() >= MOST)

    def take(self, rows: Ints) -> Items:
        """The items at `rows`, each of which is an item of its own."""
        per_item = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "known"}
        taken: dict[str, Any] = {name: None if one is None else one[..., rows] for name, one in per_item.items()}
        return replace(self, **taken)


def items_of_baseline(baseline: Snapshot) -> Items:
    """What can be shown on the model of this snapshot, with the prompts that it was asked in."""
    pairs = pairs_of(baseline, baseline)
    kept = tells_of_knowledge(pairs)
    kept[kept] = entering(pairs.take(kept))
    kept &= ~np.isnan(pairs.before) & pairs.in_all_prompts.scored
    pairs = pairs.take(kept).without_unasked()
    known = _transitions(pairs).known_before if len(pairs) else nan
    prompts, k = pairs.in_all_prompts, pairs.n_choices
    right = prompts.before > 0.5
    option = np.where(right, 0, 1)
    if prompts.choices is not None and np.isfinite(k).all():
        chosen, from_right = prompts.choices[0], prompts.choices[0] - baseline.answer[kept]
        option = np.where(right, 0, np.where(chosen < 0, -1, from_right % k.astype(int)))
    share = prompts.before if pairs.sampled else None
    return Items(k, prompts.asked, prompts.weak, pairs.cluster, known, option, pairs.samples, share)


def items_of_probe(probe: Probe, *, known: float = KNOWN) -> Items:
    """What can be shown on a model that knows this share of the items, in the prompts that they have."""
    k = probe.n_choices.astype(float)
    several, closed = np.isfinite(k) & (k > 2), np.isfinite(k)
    rows = np.flatnonzero(several if several.any() else closed if closed.any() else np.ones(len(k), bool))
    of = [probe.items[i] for i in rows.tolist()]
    number = np.arange(max((1 + len(item.variants) for item in of), default=1))[:, None]
    asked = number <= np.array([len(item.variants) for item in of])
    weak = np.zeros(asked.shape, bool)
    for column, item in enumerate(of):
        weak[1 : 1 + len(item.variants), column] = [variant.weak for variant in item.variants]
    names = [item.cluster or (i,) for i, item in enumerate(of)]
    codes = {name: code for code, name in enumerate(dict.fromkeys(names))}
    cluster = np.array([codes[name] for name in names]) if len(codes) < len(of) else None
    drawn = np.array([getattr(item, "samples", 1) for item in of]) if probe.sampled else np.ones(len(of), int)
    samples = drawn if (drawn > 1).any() else None
    return Items(k[rows], asked, weak, cluster, known, samples=samples)


class _Strength(NamedTuple):
    """How far the claim "lost" reaches in runs, in standard normal units; it is made from `_NEEDS` on."""

    reached: Floats

    @property
    def mean(self) -> float:
        return float(self.reached.mean())

    @property
    def spread(self) -> float:
        return max(float(self.reached.std()), 0.05)


def share_found(items: Items, loss: float, *, n: int | None = None, n_runs: int = N_RUNS, seed: int = 0) -> float:
    """Share of training runs that lose `loss` of the items in which the verdict is "lost".

    Args:
        loss: Share of all items that is known and lost.
        n: As many items like these; as many as there are by default.
        n_runs: Simulated.
        seed: Of the simulation.
    """
    n = len(items) if n is None else n
    if n < MIN_ITEMS or not len(items):
        return 0.0
    return float((_strength(items, loss, n, n_runs, seed).reached > _NEEDS).mean())


def smallest_loss(
    items: Items, *, power: float = POWER, n: int | None = None, n_runs: int = N_RUNS, seed: int = 0
) -> float:
    """The loss that is found in this share of runs, a share of the items; NaN if none is, however large.

    `n` is as in `share_found`.

    >>> from forget_callback.probes.item_variants import Variant
    >>> from forget_callback.probes.items import MultipleChoice
    >>> asked = [MultipleChoice(f"i{i}", "Q", list("abcd"), 0, variants=[Variant("P")]) for i in range(865)]
    >>> 0.015 < smallest_loss(items_of_probe(Probe("p", asked)), n_runs=50) < 0.03
    True
    """
    n = len(items) if n is None else n
    if n < MIN_ITEMS or not items.known > 0:
        return nan

    def beyond(loss: float) -> float:
        found = _strength(items, loss, n, n_runs, seed)
        return (found.mean - _NEEDS) / found.spread - float(ndtri(power))

    if beyond(items.known) < 0 or beyond(0.0) > 0:
        return nan
    return float(brentq(beyond, 0.0, items.known, xtol=1e-3))


def items_needed(items: Items, loss: float, *, power: float = POWER, n_runs: int = N_RUNS, seed: int = 0) -> int | None:
    """How many items like these find a loss of this share of them in this share of runs.

    None if so much is not known. What the claim has to go by grows with the square root of the number of items.
    """
    if not 0 < loss <= items.known or not len(items):
        return None
    n = 1000
    for times in (1, 1, 2):
        found = [_strength(items, loss, n, n_runs, seed + i) for i in range(times)]
        reached, spread = (float(np.mean([getattr(one, name) for one in found])) for name in ("mean", "spread"))
        n = max(ceil(n * ((_NEEDS + float(ndtri(power)) * spread) / max(reached, 0.1)) ** 2), MIN_ITEMS)
    return n


def sentence(items: Items, loss: float, *, n: int | None = None) -> str:
    """What so many items like these can show, in one line: a loss that `smallest_loss` found."""
    asked = {1: "one prompt", 2: "two variants"}.get(len(items.asked), f"up to {len(items.asked)} variants")
    size = len(items) if n is None else n
    what = f"{counted(size)} in {asked}"
    if not items.in_two_prompts:
        what += ", so a claim is of this prompt"
    if np.isnan(loss):
        return f"{what}: too few, or too little known ({100 * max(items.known, 0.0):.0f}%), to find a loss; add items"
    return f"{what}: a loss of {100 * loss:.1f} points is found in four of five runs"


def hardly_found(rule: StopRule, baseline: Sequence[Snapshot], *, limit: str, of: str) -> str:
    """What these items rather miss than find of a loss well beyond a rule's threshold; "" if they find it.

    Args:
        limit: What the threshold is called.
        of: What the loss is found in a share of, such as "runs".
    """
    found = rule_power(rule, baseline)
    if not found < HARDLY:
        return ""
    items, loss = _judged_by(rule, baseline)
    if not items.known > 0:
        return "of these items none was known for sure"
    if rule.metric != "known_lost" and loss > items.known:
        needed = rule.above / items.known
        most = f"{percent(needed, digits=0)} of that" if needed < 1 else "even all of that"
        return f"{percent(items.known)} of these items were known, and {most} is no more than {limit}"
    known = " of what was known" if rule.metric == "known_lost" else ""
    what = f"{percent(1.5 * rule.above)}{known}, one and a half times {limit},"
    if loss == items.known:
        what = f"all that was known, {percent(loss)} of them,"
    return f"these items find a loss of {what} in {percent(found, digits=0)} of {of}"


def rule_power(rule: StopRule, baseline: Sequence[Snapshot], *, n_runs: int = AT_START, seed: int = 0) -> float:
    """Share of looks at which the rule's bound is above its threshold where one and a half times as much is lost.

    Of `known_lost`, one and a half times as much of what is known, at most all of it.

    NaN for a rule that is not on knowledge lost, or has no confidence.
    """
    if rule.metric not in ("knowledge_lost", "knowledge_lost_net", "known_lost") or rule.confidence is None:
        return nan
    items, loss = _judged_by(rule, baseline)
    if not 0 < loss <= items.known:
        return 0.0
    above = []
    for rng in _generators(seed, n_runs):
        found = _transitions(simulated(items, loss, rng))
        above.append(found.interval(rule.metric, confidence=2 * rule.confidence - 1).low > rule.above)
    return float(np.mean(above))


def _judged_by(rule: StopRule, baseline: Sequence[Snapshot]) -> tuple[Items, float]:
    """The items that a rule on knowledge lost reads, and the loss that it is judged by, as a share of them."""
    probe, category = rule.target([one.probe for one in baseline])
    read = pool(baseline) if probe == "all" else next(one for one in baseline if one.probe == probe)
    items = items_of_baseline(read.select(read.category.astype(str) == category) if category else read)
    loss = 1.5 * rule.above
    return items, min(loss, 1.0) * items.known if rule.metric == "known_lost" else loss


def simulated(items: Items, loss: float, rng: np.random.Generator) -> Pairs:
    """Answers before and after a training that loses this share of the items, and moves guesses beside it.

    Known items are lost at random and guessed anew; of the other guesses `PERSISTENCE` stay as they are. An item that
    was right in every prompt is known, or guessed right in all of them as often as the baseline says. Open-ended
    items are not guessed right.
    """
    k, n, prompts = items.n_choices, len(items), len(items.asked)
    if items.option is None:
        known = rng.random(n) < items.known
        before = np.where(known, 0, _guesses(k, prompts, rng))
    else:
        before = items.option
        right = ((before == 0) | ~items.asked).all(axis=0)
        share = min(items.known / right.mean(), 1.0) if right.any() and items.known > 0 else 0.0
        known = right & (rng.random(n) < share)
    lost = known & (rng.random(n) < min(loss / max(items.known, 1e-9), 1.0))
    stays = rng.random((prompts, n)) < PERSISTENCE
    after = np.where(known & ~lost | ~known & stays, before, _guesses(k, prompts, rng))
    right_before, right_after = np.where(items.asked, [before == 0, after == 0], np.nan)
    if items.samples is not None:
        right_before, right_after = _sampled(items, known, lost, rng)
    closed = bool(np.isfinite(k).all()) and items.samples is None
    return paired(
        right_before,
        right_after,
        k,
        before_choice=before if closed else None,
        after_choice=after if closed else None,
        answer=None,
        samples=items.samples,
        cluster=None if items.cluster is None else items.cluster.astype(str),
        asked=items.asked,
        weak=items.weak,
    )


def _guesses(k: Floats, prompts: int, rng: np.random.Generator) -> Ints:
    """A guess in each prompt, 0 is right, of which `AGREEMENT` are the same in all; open-ended ones are wrong."""
    closed = np.isfinite(k)
    options = np.where(closed, k, 2).astype(int)
    own, common = rng.integers(options, size=(prompts, len(k))), rng.integers(options)
    guess = np.where(rng.random(len(k)) < AGREEMENT, common, own)
    return np.where(closed, guess, 1)


def _sampled(items: Items, known: Flags, lost: Flags, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Shares right of several samples: what is lost is right by chance alone, the rest as often as it was."""
    assert items.samples is not None
    chance = np.where(np.isfinite(items.n_choices), 1 / items.n_choices, 0.0)
    right = items.share
    if right is None:
        right = np.broadcast_to(np.where(known, 0.9, chance), items.asked.shape)
        before = rng.binomial(items.samples, right) / items.samples
    else:
        before = right
    after = rng.binomial(items.samples, np.where(lost, chance, right)) / items.samples
    return np.where(items.asked, before, np.nan), np.where(items.asked, after, np.nan)


def _transitions(pairs: Pairs) -> Transitions:
    return compare_groups(pairs, {"": slice(None)})[""]


def _strength(items: Items, loss: float, n: int, n_runs: int, seed: int) -> _Strength:
    size = min(n, _MOST_SIMULATED)
    reached: list[float] = []
    for rng in _generators(seed, n_runs):
        drawn = items if size == len(items) else _resampled(items, size, rng)
        p = _transitions(simulated(drawn, loss, rng)).loss_p_value
        reached.append(float(np.clip(-ndtri(p), -8, 8)))
    # More items than are simulated move the mean by the square root of their number, and not the spread.
    return _Strength(np.array(reached) + np.mean(reached) * (sqrt(n / size) - 1))


def _generators(seed: int, n: int) -> list[np.random.Generator]:
    """One a run: the same whatever the loss is, so that more of it is never found less often by chance."""
    return [np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(n)]


def _resampled(items: Items, n: int, rng: np.random.Generator) -> Items:
    """As many items like these: drawn with replacement, in whole clusters, of which each draw is one of its own."""
    if items.cluster is None:
        return items.take(rng.integers(len(items), size=n) if n > len(items) else rng.permutation(len(items))[:n])
    members = [np.flatnonzero(items.cluster == code) for code in np.unique(items.cluster)]
    rows: list[Ints] = []
    while sum(map(len, rows)) < n:
        rows.append(members[rng.integers(len(members))])
    drawn = items.take(np.concatenate(rows))
    return replace(drawn, cluster=np.repeat(np.arange(len(rows)), [len(one) for one in rows]))
