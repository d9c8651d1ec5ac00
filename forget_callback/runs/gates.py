"""What `--fail-if` takes: a gate on a number, or on the verdict."""

from __future__ import annotations

from typing import TypeAlias

from forget_callback.runs.gate import MIN_SCORED, Bound, Gate
from forget_callback.runs.thresholds import of_verdict
from forget_callback.runs.verdict_gate import VerdictGate

AnyGate: TypeAlias = Gate | VerdictGate


def read_gate(text: str, *, bound: Bound, min_scored: float = MIN_SCORED, inconclusive: bool = False) -> AnyGate:
    """The gate that a text is.

    Raises:
        ValueError: If it is none, or fails a model for losing little or nothing.
    """
    kind: type[AnyGate] = VerdictGate if of_verdict(text) else Gate
    gate = kind.parse(text, bound=bound, min_scored=min_scored, inconclusive=inconclusive)
    gate.require_sense()
    return gate
