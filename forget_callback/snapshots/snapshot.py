"""A snapshot: what one model answered on every item of one probe at one moment, one row an item.

Unscored items are NaN (`correct`) and None (`outcome`), never 0. Snapshots are joined by item id. Reads and writes one
Parquet file; where files belong and how they are written atomically is the store's concern.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from forget_callback.probes.quoting import printable, quoted
from forget_callback.snapshots.answers import (
    FURTHER,
    NOT_GIVEN,
    PER_ITEM,
    Answers,
    Column,
    changed,
    fill,
    require_consistent,
)
from forget_callback.snapshots.table import fields_of, table_of

# In the metadata: by how much the bits per byte of texts differ where the same model is scored twice.
NOISE = "bits_per_byte_noise"
_FURTHER_NAME = re.compile(rf"({'|'.join(FURTHER)})_([2-9]|[1-9]\d+)")


@dataclass(frozen=True, eq=False)
class Snapshot:
    """One model on one probe. All vectors are ``(n_items,)``; only the first five fields are required.

    Attributes:
        probe: Name of the probe.
        fingerprint: The probe's fingerprint: only snapshots with equal ones compare.
        step: Optimizer steps so far.
        ids: Item ids, unique.
        correct: 1 right, 0 wrong, NaN not scored; of several samples the share that is right.
        outcome: One of `OUTCOMES`, None where not scored; follows from `correct` if not given.
        choice: Index of the chosen option, -1 if there is none.
        margin: How far the right answer is ahead of the best wrong one in nats; negative where wrong, NaN if unknown.
        score: A graded number in [0, 1], such as a scorer gives, of several samples the mean; NaN where there is none.
        bits_per_byte: Of a text: summed negative log2-probability over its UTF-8 bytes; NaN of other items.
        kl: Divergence from the baseline's next-token distribution in nats per token, as far as the stored part of it
            shows: a lower bound. NaN where it was not measured.
        kl_error: At most this is missing in `kl`.
        top1: Share of the tokens whose most likely next token is the baseline's.
        category: Category of each item, "" if it has none.
        prediction: The answer that was given, None if unknown.
        text: The whole generated text of generation items, else None.
        scores: Normalised log-probability of each option, a vector an item, empty where there are no options.
        n_choices: Options of each item, infinite where open-ended.
        answer: Index of the right option, -1 where open-ended.
        cluster: What items share that are not independent of each other, "" if nothing.
        fact: What joins the items that ask for one fact, "" if there is none.
        kind: Kind of each item, such as "recall"; "" if unknown. A text that was measured has correct 1.
        ability: What each item is about, such as "knowledge", "behaviour" or "text"; "" if unknown.
        samples: Answers that were generated to each item.
        samples_seen: Training samples so far, NaN if unknown.
        tokens_seen: Training tokens so far, NaN if unknown.
        metadata: How it was measured; anything that JSON can hold.
        further: The answers to the further prompts of the items; all columns above are of the first prompts. Also as
            `correct_2`, `outcome_2`, ..., `correct_3`, ...

    Raises:
        ValueError: If vectors differ in length, an id repeats, an outcome contradicts `correct`, or a score is outside
            of [0, 1].
    """

    probe: str
    fingerprint: str
    step: int
    ids: NDArray[Any]
    correct: NDArray[Any]
    outcome: NDArray[Any] = NOT_GIVEN
    choice: NDArray[Any] = NOT_GIVEN
    margin: NDArray[Any] = NOT_GIVEN
    score: NDArray[Any] = NOT_GIVEN
    bits_per_byte: NDArray[Any] = NOT_GIVEN
    kl: NDArray[Any] = NOT_GIVEN
    kl_error: NDArray[Any] = NOT_GIVEN
    top1: NDArray[Any] = NOT_GIVEN
    category: NDArray[Any] = NOT_GIVEN
    prediction: NDArray[Any] = NOT_GIVEN
    text: NDArray[Any] = NOT_GIVEN
    scores: NDArray[Any] = NOT_GIVEN
    n_choices: NDArray[Any] = NOT_GIVEN
    answer: NDArray[Any] = NOT_GIVEN
    cluster: NDArray[Any] = NOT_GIVEN
    fact: NDArray[Any] = NOT_GIVEN
    kind: NDArray[Any] = NOT_GIVEN
    ability: NDArray[Any] = NOT_GIVEN
    samples: NDArray[Any] = NOT_GIVEN
    samples_seen: float = float("nan")
    tokens_seen: float = float("nan")
    metadata: Mapping[str, Any] = field(default_factory=dict)
    further: tuple[Answers, ...] = ()

    if TYPE_CHECKING:  # what callers may give for the vectors above: any sequence

        def __init__(
            self,
            probe: str,
            fingerprint: str,
            step: int,
            ids: Column,
            correct: Column,
            outcome: Column = ...,
            choice: Column = ...,
            margin: Column = ...,
            score: Column = ...,
            bits_per_byte: Column = ...,
            kl: Column = ...,
            kl_error: Column = ...,
            top1: Column = ...,
            category: Column = ...,
            prediction: Column = ...,
            text: Column = ...,
            scores: Column = ...,
            n_choices: Column = ...,
            answer: Column = ...,
            cluster: Column = ...,
            fact: Column = ...,
            kind: Column = ...,
            ability: Column = ...,
            samples: Column = ...,
            samples_seen: float = ...,
            tokens_seen: float = ...,
            metadata: Mapping[str, Any] = ...,
            further: Sequence[Answers] = ...,
        ) -> None: ...

    def __post_init__(self) -> None:
        n = len(self.ids)
        fill(self, PER_ITEM, n)
        if len(set(map(str, self.ids))) < n:
            unique, count = np.unique(self.ids.astype(str), return_counts=True)
            raise ValueError(f"ids must be unique, got {quoted(str(unique[count > 1][0]))} {count.max()} times")
        require_consistent(self, self.ids, self.samples)
        object.__setattr__(self, "further", tuple(self.further))
        for number, answers in enumerate(self.further, 2):
            if len(answers) != n:
                raise ValueError(f"the answers to variant {number} must be {n}, one per id, got {len(answers)}")
            require_consistent(answers, self.ids, self.samples, f"_{number}")

    if not TYPE_CHECKING:  # a name that does not exist must stay an error of the type checker

        def __getattr__(self, name: str) -> Any:
            """`correct_2`, `outcome_3`, ...: columns of the further variants."""
            found = _FURTHER_NAME.fullmatch(name)
            if found and int(found[2]) <= self.n_variants:
                return getattr(self.further[int(found[2]) - 2], found[1])
            raise AttributeError(f"{quoted(type(self).__name__)} object has no attribute {quoted(name)}")

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def n_asked(self) -> int:
        """Prompts that were asked, of all items: their first ones, and the further ones that were not skipped."""
        return len(self) + sum(int((one.asked & ~one.skipped).sum()) for one in self.further)

    @property
    def n_variants(self) -> int:
        """Prompts that the items were asked in, at most."""
        return 1 + len(self.further)

    @property
    def accuracy(self) -> float:
        """Share of right answers to the first prompts among the scored items, NaN if there are none; not of texts."""
        scored = self.correct[~np.isnan(self.correct) & (self.kind != "text")]
        return float(scored.mean()) if len(scored) else float("nan")

    def select(self, rows: NDArray[Any]) -> Snapshot:
        """The items at `rows` (a mask or indices), in that order."""
        further = tuple(answers.select(rows) for answers in self.further)
        return changed(self, further=further, **{name: getattr(self, name)[rows] for name in PER_ITEM})

    def without_variants(self) -> Snapshot:
        """The answers to the first prompts alone."""
        return changed(self, further=())

    def at(self, step: int, *, samples_seen: float = float("nan"), tokens_seen: float = float("nan")) -> Snapshot:
        """The same answers, of a model at this step of its training."""
        return changed(self, step=step, samples_seen=samples_seen, tokens_seen=tokens_seen)

    def with_metadata(self, **metadata: Any) -> Snapshot:
        """The same with more in its metadata."""
        return changed(self, metadata={**self.metadata, **metadata})

    def to_pandas(self) -> pd.DataFrame:
        """A row an item, with the columns of the file; `attrs` holds what is not per item.

        Columns: id, category, correct, outcome, choice, margin, prediction, text, scores, answer (index of the right
        option), cluster, fact, kind, ability, samples and k (options, missing where open-ended), and the graded numbers
        score, bits_per_byte, kl, kl_error and top1; of each further variant correct_2, outcome_2, ..., asked_2,
        skipped_2 and weak_2.
        """
        return table_of(self)

    def save(self, path: str | PathLike[str]) -> None:
        """Writes one Parquet file; what is not per item goes into the file's own metadata."""
        self.to_pandas().to_parquet(path, index=False)

    @staticmethod
    def load(path: str | PathLike[str]) -> Snapshot:
        """Reads what `save` wrote.

        Raises:
            ValueError: If the file is damaged, or not one of our snapshots.
        """
        try:
            with open(path, "rb") as file:  # pyarrow itself opens no path that is not UTF-8
                frame = pd.read_parquet(file)
        except FileNotFoundError:
            raise
        except (OSError, ValueError) as error:  # pyarrow's own are both
            raise ValueError(
                f"{path} is damaged, or no Parquet file: {printable(str(error))}; restore it from a copy, or remove it"
            ) from None
        if "fingerprint" not in frame.attrs or "correct" not in frame:
            raise ValueError(f"{path} is not a snapshot of forget_callback: expected what Snapshot.save wrote")
        try:
            return Snapshot(**fields_of(frame))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path} is not what Snapshot.save wrote: {type(error).__name__}: {printable(str(error))}"
            ) from None


def scoring_seconds(snapshots: Iterable[Snapshot]) -> float:
    """Time that scoring them took together, NaN if none says."""
    known = [float(snapshot.metadata["seconds"]) for snapshot in snapshots if "seconds" in snapshot.metadata]
    return sum(known) if known else float("nan")
