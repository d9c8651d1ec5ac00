"""`plan`: what a probe's items can show, how many a loss needs, and what an evaluation costs, before training."""

from __future__ import annotations

import random
import time
from dataclasses import replace
from typing import Annotated, Any

import typer

from forget_callback.cli.app import IncludePath, app, note, say_spacing, with_include_path
from forget_callback.cli.output import Format, print_json
from forget_callback.metrics.texts import FLOOR
from forget_callback.probes.items import Text
from forget_callback.probes.load import load_probe
from forget_callback.probes.plurals import counted
from forget_callback.probes.probe import Probe
from forget_callback.probes.remote import require_model
from forget_callback.runs import power, text_power
from forget_callback.snapshots.snapshot import Snapshot

_PART = 200  # items that are scored to measure the time and what is known


@app.command()
def plan(
    spec: Annotated[str, typer.Argument(metavar="SPEC", help="Probe spec.")],
    detect: Annotated[
        float | None,
        typer.Option(help="A loss, a share of items or of documents bits per byte: how many find it."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Directory or hub id: measures what it knows and the time of an evaluation.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Items, at most.")] = None,
    batch_tokens: Annotated[int | None, typer.Option(min=1, help="Tokens per forward pass; halved on OOM.")] = None,
    include_path: IncludePath = None,
    format: Format = "text",
) -> None:
    """Says how small a loss a probe can show, and what that costs.

    Nothing is trained. With --model a part of the items is scored, for what is known and for the time that it takes.
    """
    if detect is not None and not 0 < detect < 1:
        raise ValueError(f"--detect must be a share of the items between 0 and 1, such as 0.02, got {detect:g}")
    if model is not None:
        require_model(model)
    probe = load_probe(with_include_path(spec, include_path), limit=limit)
    say_spacing(probe)
    answered = [item for item in probe.items if not isinstance(item, Text)]
    if not answered:
        _plan_documents(probe, detect, model, batch_tokens, format)
        return
    if len(answered) < len(probe):
        n = len(probe) - len(answered)
        left = "its document is" if n == 1 else f"its {n:,} documents are"
        note(f"probe {probe.name!r}: {left} left out; plan them by themselves")
        probe = replace(probe, items=answered)
    items = power.items_of_probe(probe)
    n, seconds = len(items), None
    if model is not None:
        part, seconds = _measured(probe, model, batch_tokens)
        items = power.items_of_baseline(part)
        if not len(items):
            raise ValueError(
                f"{model} gave no score to any of {counted(len(part))} of {probe.name!r}: nothing to plan from"
            )
    loss = power.smallest_loss(items, n=n)
    found: dict[str, Any] = {
        "probe": probe.name,
        "items": n,
        "variants": len(items.asked),
        "in_this_prompt": not items.in_two_prompts,
        "known": items.known,
        "known_measured": model is not None,
        "power": power.POWER,
        "smallest_loss": loss,
        "detect": detect,
        "items_needed": None if detect is None else power.items_needed(items, detect),
        "detect_power": None if detect is None else power.share_found(items, detect, n=n),
        "seconds": seconds,
        "assumptions": {"agreement": power.AGREEMENT, "persistence": power.PERSISTENCE},
    }
    sentence = power.sentence(items, loss, n=n)
    if format == "json":
        print_json("plan", {**found, "headline": sentence})
    else:
        print("\n".join(_lines(found, sentence)))


def _plan_documents(
    probe: Probe, detect: float | None, model: str | None, batch_tokens: int | None, format: Format
) -> None:
    """What documents can show: the same numbers, with bits per byte in place of shares of items."""
    n, seconds = len(probe), None if model is None else _measured(probe, model, batch_tokens)[1]
    found: dict[str, Any] = {
        "probe": probe.name,
        "items": n,
        "variants": 1,
        "in_this_prompt": False,
        "known": None,
        "known_measured": False,
        "power": text_power.POWER,
        "smallest_loss": None,
        "smallest_rise": text_power.smallest_rise(n),
        "detect": detect,
        "items_needed": None if detect is None else text_power.documents_needed(detect),
        "detect_power": None if detect is None else text_power.share_found(detect, n),
        "seconds": seconds,
        "assumptions": {"spread": text_power.SPREAD},
    }
    sentence = text_power.sentence(n)
    if format == "json":
        print_json("plan", {**found, "headline": sentence})
        return
    print(f"{probe.name}: {sentence}")
    print(f"assumed: the documents' changes have a standard deviation of {text_power.SPREAD:g} bits per byte")
    if detect is not None and found["items_needed"] is None:
        print(f"a rise of {detect:g} bits per byte is within the floor of {FLOOR:g}, so it is no loss")
    elif detect is not None:
        needed, power_of = found["items_needed"], 100 * found["detect_power"]
        print(
            f"a rise of {detect:g} bits per byte needs {needed:,} documents; {n:,} find it in {power_of:.0f}% of runs"
        )
    if seconds is not None:
        print(f"an evaluation takes about {seconds['one']:.1f} s on this machine")


def _measured(probe: Probe, model: str, batch_tokens: int | None) -> tuple[Snapshot, dict[str, float]]:
    """Answers to a part of the probe, and seconds per evaluation of all of it in the first and in all prompts."""
    from forget_callback.scoring.engine import Scorer
    from forget_callback.scoring.loading import load_model, load_tokenizer

    chosen = sorted(random.Random(0).sample(range(len(probe)), min(_PART, len(probe))))
    part = replace(probe, items=[probe.items[i] for i in chosen])
    scorer = Scorer(load_tokenizer(model), [part], batch_tokens=batch_tokens)
    network, scale = load_model(model), len(probe) / len(part)
    scorer.score(network)  # plans the batches and warms up, which later evaluations do not pay
    seconds = {}
    for name, variants in (("one", False), ("all", True)):
        begun = time.perf_counter()
        (taken,) = scorer.score(network, variants=variants)
        seconds[name] = (time.perf_counter() - begun) * scale
    return taken, seconds


def _lines(found: dict[str, Any], sentence: str) -> list[str]:
    """What was found, for people."""
    lines = [f"{found['probe']}: {sentence}"]
    known = f"{100 * found['known']:.0f}% of the items are known"
    assumed = found["assumptions"]
    moves = (
        f"{100 * assumed['agreement']:.0f}% of the guesses are the same in all prompts, training leaves "
        f"{100 * assumed['persistence']:.0f}% of them as they are, and what is lost is lost item by item"
    )
    measured = f"measured: {known}" if found["known_measured"] else f"assumed, for want of --model: {known}"
    lines.append(f"{measured}; assumed: {moves}")
    if found["detect"] is not None:
        points = f"a loss of {100 * found['detect']:.1f} points"
        needed = found["items_needed"]
        lines.append(
            f"{points} needs {needed:,} items like these; {found['items']:,} find it in "
            f"{100 * found['detect_power']:.0f}% of runs"
            if needed is not None
            else f"{points} cannot happen: less than that is known"
        )
    if found["seconds"] is not None:
        one, every = found["seconds"]["one"], found["seconds"]["all"]
        lines.append(
            f"an evaluation takes about {one:.1f} s in the first prompt and {every:.1f} s in all, on this machine"
        )
    return lines
