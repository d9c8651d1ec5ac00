"""How to measure again what a card says: the commands, and the spec that loads a run's probe once more.

A manifest knows a probe's items and settings, and not where they came from: a spec is tried, and stands in the card
where it gives the same fingerprint.
"""

from __future__ import annotations

import os
import shlex
from dataclasses import replace
from importlib import metadata
from urllib.parse import quote, urlencode

from forget_callback.probes.builtin import BUILTIN
from forget_callback.probes.items import Generation
from forget_callback.probes.load import load_probe
from forget_callback.probes.probe import Probe
from forget_callback.probes.quoting import code, printable
from forget_callback.report.run import Run
from forget_callback.runs.training import hub_id

HOME = "https://github.com/forget-callback/forget-callback"


def version_of(run: Run) -> str:
    """The version of this package that a run was measured with."""
    return printable(str(run.manifest["versions"].get("forget-callback", metadata.version("forget-callback"))))


def reproduce(run: Run, *, published: bool, repo: str = "") -> str:
    """Commands that measure a run's first and last model again, as a block of Markdown.

    Args:
        published: Whether the items are in a dataset beside the card.
        repo: Hub id of the model that the card is of, "" where it is not known.
    """
    install = f'pip install "git+{HOME}"  # measured with version {version_of(run)}'
    if run.manifest.get("source"):
        return "\n".join(["```bash", install, "forget-callback compare LOG_BEFORE LOG_AFTER", "```"])
    specs, remarks = [], []
    for probe in run.probes:
        spec, remark = spec_of(probe, run.path / "probes" / f"{probe.name}.jsonl", published=published)
        specs.append(f"--probe {shlex.quote(printable(spec))}")
        remarks += [f"{code(probe.name)}: {remark}."] if remark else []
    before, which = _before(run)
    legend = [f"# MODEL_BEFORE: {which}"] * (not before)
    legend += ["# MODEL_OF_THIS_CARD: the directory or hub id of the model that this card is of"] * (not repo)
    after = shlex.quote(printable(repo)) if repo else "MODEL_OF_THIS_CARD"
    lines = [
        install,
        *legend,
        f"forget-callback snapshot {before or 'MODEL_BEFORE'} {' '.join(specs)} --out before",
        f"forget-callback snapshot {after} {' '.join(specs)} --out after",
        "forget-callback compare before after",
    ]
    return "\n".join(["```bash", *lines, "```", *([""] if remarks else []), *remarks])


def _before(run: Run) -> tuple[str, str]:
    """The model before training as a command takes it, "" where no one else can name it so; and which one it is."""
    if run.stage.number > 1:
        return "", "the model before the first stage"
    model = run.training.model or ""
    if found := hub_id(model):
        return shlex.quote(printable(found)), ""
    return "", f"the model before training ({'a local directory' if model else 'the run does not say which'})"


def spec_of(probe: Probe, file: os.PathLike[str], *, published: bool) -> tuple[str, str]:
    """A spec that loads the same probe again, and what to say of it.

    Args:
        file: Its items, as the run kept them.
        published: Whether they are in the dataset.
    """
    probe = replace(probe, template="")  # the model's own, and bound to the probe when it is scored
    if spec := next((one for one in _builtin(probe) if _loads(one, probe)), ""):
        return spec, ""
    default = Probe("x", probe.items[:1]).settings
    changed = {name: value for name, value in probe.settings.items() if value != default[name]}
    texts = {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in changed.items()}
    query = f"?{urlencode(texts, quote_via=quote)}" if texts else ""
    exact = _loads(f"{os.fspath(file)}{query}", probe) and (published or not probe.system)
    where = "in the dataset under probes/" if published else "not published with this card"
    own = "" if exact else ", and it was asked with settings of its own: " + ", ".join(sorted(changed))
    return f"{probe.name}.jsonl" + query * exact, f"its items are {where}{own}"


def _loads(spec: str, probe: Probe) -> bool:
    try:
        found = load_probe(spec)
    except (ValueError, OSError):
        return False
    # None leaves it to the tokenizer, and the run's has decided.
    return (replace(found, chat=probe.chat) if found.chat is None else found).fingerprint == probe.fingerprint


def _builtin(probe: Probe) -> list[str]:
    """Specs of the package's own probes that this one may be, by its name."""
    name = probe.name.partition("-")[0]
    if name not in BUILTIN:
        return []
    kinds = sorted({"choice" if item.kind == "multiple_choice" else item.kind for item in probe.items})
    categories = sorted({item.category for item in probe.items})
    chosen = [f"kind={kinds[0]}"] if len(kinds) == 1 and "kind" in BUILTIN[name].options else []
    if BUILTIN[name].has_code and any(isinstance(item, Generation) and item.match == "code" for item in probe.items):
        chosen.append("run_code=true")
    found = []
    for parts in ([], [f"category={','.join(categories)}"]):
        for limit in ([], [f"limit={len(probe)}"]):
            query = "&".join([*parts, *chosen, *limit])
            found.append(f"builtin:{name}" + (f"?{query}" if query else ""))
    return found
