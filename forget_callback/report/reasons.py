"""Why a generated text is wrong, where the rule that judged it can say so: it is judged once more for the page.

Snapshots hold outcomes and no reasons; rules are deterministic, so they find the same again. What a user's own scorer
decided is not judged here.
"""

from __future__ import annotations

from collections.abc import Sequence

from forget_callback.probes.items import Generation
from forget_callback.probes.judges.rules import RULES
from forget_callback.probes.judging import judge_all
from forget_callback.probes.probe import Probe

MOST = 400  # characters of a reason


def reasons(probe: Probe, texts: Sequence[str | None], wrong: Sequence[str | None]) -> dict[str, str]:
    """One line for each item whose rule says why it did not pass, by the item's position.

    Args:
        texts: The generated text of each item.
        wrong: The outcome of each item that did not pass, None of others.
    """
    if probe.scorer:
        return {}
    asked = [
        (i, (item, text, outcome != "truncated"))
        for i, (item, text, outcome) in enumerate(zip(probe.items, texts, wrong))
        if outcome is not None and text is not None and isinstance(item, Generation) and item.match in RULES
    ]
    found = judge_all([one for _, one in asked]).judgements if asked else []
    return {str(i): said.why[:MOST] for (i, _), said in zip(asked, found) if said is not None and said.why}
