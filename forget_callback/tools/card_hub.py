"""A card, its badge and the dataset of snapshots on the hub; all is checked before anything is sent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import CommitOperationAdd, HfApi, constants, get_session, get_token, hf_raise_for_status

from forget_callback.probes.quoting import printable, quoted
from forget_callback.tools.card_dataset import TEXTS

CARD = "README.md"
Result = TypeVar("Result")


@dataclass(frozen=True)
class Upload:
    """What goes to the hub.

    Attributes:
        model: Id of the model's repository.
        card: The whole card.
        badge: File name and text of the badge.
        dataset: Id of the dataset's repository, "" for none.
        folder: Its files.
        private: Whether repositories that are made are private.
    """

    model: str
    card: str
    badge: tuple[str, str]
    dataset: str = ""
    folder: Path | None = None
    private: bool = False


def dataset_link(dataset: str) -> str:
    """The address of a dataset, "" of none."""
    return f"{constants.ENDPOINT}/datasets/{dataset}" if dataset else ""


def require_token() -> str:
    """The token of whoever is logged in.

    Raises:
        ValueError: If there is none.
    """
    token = get_token()
    if token is None:
        raise ValueError(
            "--push needs a token of the hub with write access, and there is none: run `hf auth login`, or set "
            "HF_TOKEN; --write writes the card here, and --out writes all that --push would send"
        )
    return token


def read_card(model: str) -> str:
    """The card that the hub has of a model, with its line endings; "" where there is none.

    Raises:
        ValueError: If the hub cannot be asked, or the id is none.
    """

    def read() -> str:
        api = HfApi()
        if not api.file_exists(model, CARD):
            return ""
        path = api.hf_hub_download(model, CARD, force_download=True)  # never what a cache has of it
        return Path(path).read_bytes().decode("utf-8")

    return _asked(f"the card of {quoted(model)} could not be read", read)


def push(what: Upload) -> list[str]:
    """Sends the dataset, and then the card and the badge in one commit; gives the addresses of the commits.

    Raises:
        ValueError: If the hub refuses a card, before anything is sent; or something cannot be sent, which says what
            was.
    """
    api = HfApi(token=require_token(), library_name="forget-callback")
    _asked("the hub does not take the card", lambda: _validate(what.card, "model"))
    if what.folder is not None:
        card = (what.folder / CARD).read_bytes().decode("utf-8")
        _asked("the hub does not take the dataset's card", lambda: _validate(card, "dataset"))
    done: list[str] = []
    if what.folder is not None:
        done.append(_sent(done, what.dataset, lambda: _push_dataset(api, what)))
    done.append(_sent(done, what.model, lambda: _push_model(api, what)))
    return done


def _validate(card: str, kind: str) -> None:
    """What `RepoCard.validate` asks, but of HF_ENDPOINT: before 2.2 that one asks huggingface.co always.

    Raises:
        ValueError: If the hub refuses the card.
    """
    response = get_session().post(
        f"{constants.ENDPOINT}/api/validate-yaml",
        json={"repoType": kind, "content": card},
        headers={"Accept": "text/plain"},
    )
    if response.status_code == 400:
        raise ValueError(response.text)
    hf_raise_for_status(response)


def _push_dataset(api: HfApi, what: Upload) -> str:
    api.create_repo(what.dataset, repo_type="dataset", private=what.private or None, exist_ok=True)
    sent = api.upload_folder(
        repo_id=what.dataset,
        repo_type="dataset",
        folder_path=str(what.folder),
        commit_message="Snapshots of a run",
        delete_patterns=list(TEXTS),  # of an earlier upload with prompts and answers in it
    )
    return str(sent.commit_url)


def _push_model(api: HfApi, what: Upload) -> str:
    api.create_repo(what.model, private=what.private or None, exist_ok=True)
    name, picture = what.badge
    files = {CARD: what.card, name: picture}
    sent = api.create_commit(
        what.model,
        [CommitOperationAdd(path, text.encode("utf-8")) for path, text in files.items()],
        commit_message="What training forgot",
    )
    return str(sent.commit_url)


def _sent(done: list[str], name: str, send: Callable[[], Result]) -> Result:
    before = f"; sent before it: {', '.join(done)}" if done else ""
    return _asked(f"{quoted(name)} could not be sent", send, before)


def _asked(problem: str, ask: Callable[[], Result], after: str = "") -> Result:
    """What the hub answers; what goes wrong there is an error in one line."""
    try:
        return ask()
    except Exception as error:  # which ones they are depends on the HTTP client that huggingface_hub has
        said: Any = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{problem}{after}: {printable(said)[:500]}") from None
