"""`card`: what a run forgot, in the card of its model. Writes nothing unless told to."""

from __future__ import annotations

import difflib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from forget_callback.cli.app import app, note
from forget_callback.cli.output import Format, print_json
from forget_callback.cli.run import run_of_logs
from forget_callback.probes.quoting import printable, quoted
from forget_callback.runs.files import require_writable, write_text, write_whole
from forget_callback.runs.store import Store
from forget_callback.snapshots.logs import LogOptions, is_log

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

    from forget_callback.tools.card import Passport
    from forget_callback.tools.card_hub import Upload

UploadOption = typer.Option(
    help="In the dataset: no prompts and answers (metrics), these and the page too (all), none."
)


@app.command()
def card(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN", help="RUN, RUN@STEP, or logs of one model's checkpoints in order.")
    ],
    model_card: Annotated[
        Path | None, typer.Option(help="The model's README.md, new or not; by default the hub's.")
    ] = None,
    repo: Annotated[str | None, typer.Option(help="The model's repository on the hub, such as me/model.")] = None,
    dataset: Annotated[str | None, typer.Option(help="That of the snapshots; by default REPO-forgetting.")] = None,
    upload: Annotated[Literal["metrics", "all", "none"], UploadOption] = "metrics",
    out: Annotated[Path | None, typer.Option(help="Write card, badge and dataset into this folder.")] = None,
    write: Annotated[
        bool, typer.Option("--write", help="Write the card in its place, and the badge beside it.")
    ] = False,
    push: Annotated[
        bool, typer.Option("--push", help="Send card, badge and dataset to the hub; needs --repo.")
    ] = False,
    private: Annotated[bool, typer.Option("--private", help="Repositories that --push makes are private.")] = False,
    allow_incomplete: Annotated[
        bool, typer.Option("--allow-incomplete", help="Of a run that did not end whole too; the card says so.")
    ] = False,
    format: Format = "text",
) -> None:
    """Puts what a run forgot into the card of its model.

    A section, results for model-index, a badge, and the snapshots as a dataset; the rest stays as it is.
    Without --write, --out or --push it shows what it would write. The next run replaces what this one wrote.
    """
    from forget_callback.tools.card_hub import push as send, require_token

    _require_sense(model_card, repo, out, write=write, push=push)
    if push:
        require_token()
    asked = _Asked(model_card, repo, dataset, upload, push, private, allow_incomplete)
    with tempfile.TemporaryDirectory() as directory:
        draft = _draft(runs, asked, Path(directory))
        written = [] if out is None else _write_out(draft, out)
        if write and model_card is not None:
            written += _write_here(draft, model_card)
        pushed = send(draft.upload(private=private)) if push else []
        if format == "json":
            print_json("card", draft.result() | {"written": written, "pushed": pushed})
            return
        if not written:
            _show(draft)
        elif draft.before == draft.after:
            print("the card stays as it is")
    for path in written:
        print(f"written: {printable(str(path))}")
    for url in pushed:
        print(f"sent: {url}")
    if not written and not pushed:
        note(
            "nothing was written or sent: --write writes the card in its place, --out DIR writes all into a folder, "
            "--push sends it to the hub"
        )


@dataclass(frozen=True)
class _Asked:
    """What the user asked for."""

    model_card: Path | None
    repo: str | None
    dataset: str | None
    upload: str
    push: bool
    private: bool
    allow_incomplete: bool

    @property
    def dataset_repo(self) -> str:
        """Where the dataset is or will be on the hub, "" for nowhere."""
        return "" if self.upload == "none" else self.dataset or (f"{self.repo}-forgetting" if self.repo else "")


@dataclass(frozen=True)
class _Draft:
    """All that would be written.

    Attributes:
        name: Of the model, for a card that names none.
        before: The card as it is, None where there is none.
        after: The card as it would be.
        folder: Where the files of the dataset are.
    """

    asked: _Asked
    found: Passport
    name: str
    section: str
    results: list[EvalResult]
    before: str | None
    after: str
    folder: Path
    files: Sequence[Path]

    @property
    def sizes(self) -> dict[str, int]:
        """The dataset's files, in bytes."""
        return {file.relative_to(self.folder).as_posix(): file.stat().st_size for file in self.files}

    def upload(self, *, private: bool) -> Upload:
        """What goes to the hub."""
        from forget_callback.report.badge import svg
        from forget_callback.tools.card import BADGE_FILE
        from forget_callback.tools.card_hub import Upload

        badge = (BADGE_FILE, svg(self.found.badge))
        folder = self.folder if self.files else None
        return Upload(self.asked.repo or "", self.after, badge, self.asked.dataset_repo, folder, private)

    def result(self) -> dict[str, Any]:
        """The same for JSON."""
        from huggingface_hub.repocard_data import eval_results_to_model_index

        found, shown = self.found, self.found.badge
        return {
            "run": found.run.path,
            "step": found.step,
            "incomplete": list(found.gaps),
            "probes": {one.probe: {"verdict": one.verdict, "headline": one.sentence} for one in found.headlines},
            "badge": {"label": shown.label, "value": shown.value, "tone": shown.tone, "title": shown.title},
            "section": self.section,
            "model_index": eval_results_to_model_index(self.name, self.results),
            "card": self.after,
            "dataset": {"repo": self.asked.dataset_repo or None, "files": self.sizes},
        }


def _draft(runs: Sequence[str], asked: _Asked, directory: Path) -> _Draft:
    from forget_callback.tools.card import passport, results, section
    from forget_callback.tools.card_dataset import write_dataset
    from forget_callback.tools.card_hub import dataset_link
    from forget_callback.tools.model_card import merged

    texts, repo = asked.upload == "all", asked.dataset_repo
    found = passport(_source(runs, directory), allow_incomplete=asked.allow_incomplete, texts=texts)
    own, text = results(found, dataset=repo), section(found, dataset=dataset_link(repo), repo=asked.repo or "")
    before, file, others = _card_before(asked)
    name = _name(asked, found, before or "")
    after = merged(before or "", text, own, name=name, file=file)
    if others and merged(others, text, own, name=name, file="the card on the hub").text != after.text:
        raise ValueError(
            f"{file} and the card that {asked.repo} has on the hub differ, and --push would undo what was changed "
            "there: leave --model-card out to put the section into the card on the hub, or send yours first"
        )
    for line in after.notes:
        note(f"{file}: {line}")
    folder = directory / "dataset"
    files = [] if asked.upload == "none" else write_dataset(found, folder)
    return _Draft(asked, found, name, text, own, before, after.text, folder, files)


def _name(asked: _Asked, found: Passport, card: str) -> str:
    """Of the model: its repository's, what the card calls it, after its base model, or that of its directory."""
    from forget_callback.runs.training import hub_id
    from forget_callback.tools.model_card import name_in

    if asked.repo is not None:
        return asked.repo.rpartition("/")[2]
    base = hub_id(found.run.training.model or "").rpartition("/")[2]
    folder = found.run.path.resolve().parent.name if not found.run.manifest.get("source") else ""
    if asked.model_card is not None:
        folder = asked.model_card.resolve().parent.name
    return name_in(card) or (f"{base} fine-tuned" if base else printable(folder) or "model")


def _source(runs: Sequence[str], directory: Path) -> str | Store:
    """The run, or one made of logs.

    Raises:
        ValueError: If there are several runs.
    """
    logs = [is_log(Path(run)) for run in runs]
    if len(runs) == 1 and not logs[0]:
        return runs[0]
    if not all(logs) or len(runs) < 2:
        raise ValueError("a card is of one run, or of two or more logs, the checkpoints of one model in order")
    return run_of_logs(runs, directory / "logs", LogOptions(None, None, None, None, False, note))


def _card_before(asked: _Asked) -> tuple[str | None, str, str]:
    """The card as it is or None, what it is called, and that on the hub where another one is to take its place.

    Raises:
        ValueError: If it cannot be read.
    """
    from forget_callback.tools.card_hub import read_card

    file = asked.model_card
    if file is not None:
        text = None
        try:
            text = file.read_bytes().decode("utf-8")
        except FileNotFoundError:  # many trainers write no card
            note(f"{printable(str(file))} does not exist: the card is a new one")
        except UnicodeDecodeError as error:
            raise ValueError(f"{file} is no UTF-8: {error}; save it as UTF-8") from None
        return text, str(file), read_card(asked.repo) if asked.push and asked.repo else ""
    if asked.repo is None:
        return None, "README.md", ""
    try:
        return read_card(asked.repo) or None, f"the card of {asked.repo}", ""
    except ValueError as error:
        if asked.push:
            raise
        note(f"{error}; a new card is shown")
        return None, "README.md", ""


def _write_here(draft: _Draft, card: Path) -> list[Path]:
    """The card in its place, through links, and the badge beside it."""
    name, picture = draft.upload(private=False).badge
    badge = card.parent / name
    write_whole(card.resolve(), lambda temporary: temporary.write_bytes(draft.after.encode("utf-8")))
    write_text(badge, picture)
    return [card, badge]


def _write_out(draft: _Draft, out: Path) -> list[Path]:
    """Card, badge and dataset in a folder."""
    from forget_callback.tools.card_dataset import write_dataset

    files = []
    if draft.files:
        files = write_dataset(draft.found, out / "dataset")
    out.mkdir(parents=True, exist_ok=True)
    card = out / "README.md"
    return [*files, *_write_here(draft, card)]


def _show(draft: _Draft) -> None:
    """What would change in the card, and what else there would be."""
    before, after = (draft.before or "").splitlines(), draft.after.splitlines()
    old, new = ("/dev/null", "new card") if draft.before is None else ("card", "card")
    for line in difflib.unified_diff(before, after, old, new, n=2, lineterm=""):
        print(printable(line.replace("\u00a0", " ")))  # which keeps a number of the table in one line
    if draft.before == draft.after:
        print("the card stays as it is")
    print(f"badge: {printable(draft.found.badge.text)}")
    if draft.files:
        each = ", ".join(f"{name} ({size / 1000:.1f} kB)" for name, size in draft.sizes.items())
        print(f"dataset{f' {draft.asked.dataset_repo}' * bool(draft.asked.dataset_repo)}: {printable(each)}")


def _require_sense(model_card: Path | None, repo: str | None, out: Path | None, *, write: bool, push: bool) -> None:
    """That the options say where to.

    Raises:
        ValueError: If not.
    """
    if push and repo is None:
        raise ValueError(
            "--push needs --repo, the model's repository on the hub, such as me/model, and a token (`hf auth login`, "
            "or HF_TOKEN); --write writes the card here"
        )
    if write and model_card is None:
        raise ValueError("--write needs --model-card, the file to write; --out DIR writes into a folder instead")
    if write and model_card is not None:
        require_writable(model_card, "--model-card")
    if out is not None:
        require_writable(out, "--out", directory=True)
        if model_card is not None and (out / "README.md").resolve() == model_card.resolve():
            raise ValueError(f"--out {quoted(str(out))} is where the model's card is; --write writes it there")
