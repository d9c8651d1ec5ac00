"""`hub:NAME`: the benchmarks of arXiv 2510.17776, through `datasets`, each alone or all as `hub:forgetting-map`.

Options of the spec: `form` is "letters" (options listed in the prompt, their letters scored, the default) or "text"
(the options themselves scored); `root` is a directory with local copies of the data sets, `root/cais/mmlu` and so on.
What a row becomes is in `benchmarks.py`; here it is fetched and put together.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from forget_callback.probes.benchmarks import BENCHMARKS, MMLU_CATEGORIES, PARTS, Part, Question
from forget_callback.probes.clusters import cluster_of, only_shared
from forget_callback.probes.items import Generation, Item, MultipleChoice
from forget_callback.probes.probe import Probe
from forget_callback.probes.quoting import quoted
from forget_callback.probes.reasoning import LETTERS, listed
from forget_callback.probes.remote import hub_problem
from forget_callback.probes.suggest import did_you_mean

logger = logging.getLogger(__name__)

ALL = "forgetting-map"
FORMS = ("letters", "text")
OPTIONS = ("form", "root")


def load_benchmark(name: str, options: Mapping[str, str]) -> Probe:
    """A benchmark, with its subjects as categories; or all of them, with the paper's categories.

    Args:
        name: One of `BENCHMARKS`, or "forgetting-map".
        options: `form` and `root`.

    Raises:
        ValueError: If the name or the form is not known.
        OSError: If a data set is neither in the cache nor to be downloaded; says which one, and how to bring it.
    """
    if name != ALL and name not in BENCHMARKS:
        raise ValueError(
            f"spec {quoted(f'hub:{name}')} is not known; expected one of {ALL}, {', '.join(BENCHMARKS)}; a file of "
            f"your own is named by its path alone, and lm-eval has more tasks{did_you_mean(name, [ALL, *BENCHMARKS])}"
        )
    form, root = options.get("form", FORMS[0]), options.get("root", "")
    if form not in FORMS:
        raise ValueError(f"spec 'hub:{name}': expected form=letters or form=text, got {quoted(form)}")
    items: list[Item] = []
    revisions = {}
    for key in BENCHMARKS if name == ALL else [name]:
        found, revisions[key] = _items(key, form, root, whole=name == ALL)
        items += found
    joined = "\n".join(f"{key}@{revision}" for key, revision in sorted(revisions.items()))
    revision = revisions[name] if len(revisions) == 1 else hashlib.sha256(joined.encode()).hexdigest()
    return Probe(name, items, revision=revision)


def _items(name: str, form: str, root: str, *, whole: bool) -> tuple[list[Item], str]:
    """The items of a benchmark and the revision that they came from; with `whole`, under the paper's categories."""
    items: list[Item] = []
    left_out, revisions = 0, set()
    for part in (part for part in PARTS if part.benchmark == name):
        rows, revision = _rows(part, root)
        revisions.add(revision)
        for place, row in enumerate(rows):
            subject = part.subject or str(row.get("subject", ""))
            question = BENCHMARKS[name](row, subject)
            if question is None:
                left_out += 1
                continue
            category = MMLU_CATEGORIES.get(subject, part.category) if whole else subject
            key = "/".join(filter(None, (name, subject, str(place))))
            items.append(_item(key, question, category, form))
    if left_out:
        logger.warning("hub:%s: %d rows without one right answer of their own were left out", name, left_out)
    return only_shared(items), "+".join(sorted(revisions))


def _item(key: str, question: Question, category: str, form: str) -> Item:
    text, cluster = question.text.strip(), cluster_of(key.partition("/")[0], question.passage)
    if question.task:
        return Generation(key, text, "see doc", "task", category, 1280, task=question.task, doc=question.doc)
    if not question.options:
        return Generation(key, f"{text}\nAnswer:", question.answer, "number", category, 16, ("\n",))
    options, right = question.shuffled(key)
    if question.listed:
        choices: Sequence[str] = [f" ({letter})" for letter in LETTERS[: len(options)]]
    elif form == "letters":
        text = f"{text}\n{listed(options)}"
        choices = [f" {letter}" for letter in LETTERS[: len(options)]]
    else:
        choices = [f" {option.strip()}" for option in options]
    return MultipleChoice(key, f"{text}\nAnswer:", tuple(choices), right, category, cluster=cluster)


def _rows(part: Part, root: str) -> tuple[Iterable[Mapping[str, Any]], str]:
    """The rows of a part, and the commit of the data set; "local" for a local copy."""
    from datasets import load_dataset

    name, local = part.benchmark, Path(root, part.repository)
    if root and not local.is_dir():
        raise FileNotFoundError(f"hub:{name}: {root} holds no copy of {part.repository}; expected {local}")
    try:
        rows = load_dataset(
            str(local) if root else part.repository,
            name=part.config or None,
            split=part.split,
            data_files={part.split: part.files} if part.files else None,
            revision=part.revision if part.revision and not root else None,
        )
    except Exception as error:  # without a network every layer below has errors of its own
        wanted = ", ".join(filter(None, (part.config and f"configuration {part.config}", f"split {part.split}")))
        reason = next(iter(str(error).strip().splitlines()), "")
        reason = hub_problem(part.repository, error) or f"{type(error).__name__}: {reason}"
        raise OSError(
            f"hub:{name} needs the data set {part.repository} ({wanted}), which could not be loaded: {reason}. Where "
            "there is a network, fetch it with 'hf download "
            f"{part.repository} --repo-type dataset --local-dir DIR/{part.repository}' and use "
            f"hub:{name}?root=DIR, or fill the cache of datasets there"
        ) from error
    if root:
        return rows, "local"
    sources = rows.info.download_checksums or {}  # their addresses hold the commit
    commits = {address.rpartition("@")[2].split("/")[0] for address in sources if "@" in address}
    return rows, "+".join(sorted(commits)) or str(rows._fingerprint)
