"""Checkpoints that a server scores: it loads each by a command of the user's, or by the name that it is asked for.

Knows nothing of how a server loads a model, and cannot see whether it did: the command says so by its exit status.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from forget_callback.probes.items import Generation
from forget_callback.probes.probe import Probe
from forget_callback.probes.quoting import quoted
from forget_callback.scoring.engine import Ask
from forget_callback.scoring.likelihood.tokens import Encodings
from forget_callback.scoring.served.client import Server
from forget_callback.scoring.served.score import bind_served, score_served
from forget_callback.snapshots.reference import Reference
from forget_callback.snapshots.snapshot import Snapshot
from forget_callback.tools.checkpoint_history import Confirm
from forget_callback.tools.checkpoints import Checkpoint

PLACE = "{checkpoint}"


class ServedScorer:
    """A `ModelScorer` of models on an OpenAI-compatible server.

    Args:
        probes: To be scored.
        address: ``http://HOST:PORT/v1#MODEL``, with `{checkpoint}` in it where the server takes it as the name.
        first: The first checkpoint, by whose tokenizer options and answers to recall become token ids.
        load: Command that makes the server load a checkpoint, `{checkpoint}` in it standing for that; "" for none.
        tokenizer: In place of the first checkpoint's; also renders conversations, which the server does without it.
        concurrency: Requests in flight at once.

    Raises:
        ValueError: If nothing tells the server which checkpoint to load, or a tokenizer is needed and not there.
    """

    def __init__(
        self,
        probes: Sequence[Probe],
        address: str,
        first: str,
        *,
        load: str = "",
        tokenizer: str | None = None,
        concurrency: int = 16,
    ) -> None:
        require_load(address, load)
        self.references: dict[str, Reference] = {}
        self._address, self._load, self._concurrency = address, load, concurrency
        # Where only the server needs a tokenizer, texts are sent and not ids: some take nothing else.
        names = [tokenizer or (None if _is_generated(probe) else first) for probe in probes]
        bound = [bind_served(probe, self._server(first), tokenizer=name) for probe, name in zip(probes, names)]
        self.probes: Sequence[Probe] = [probe for probe, _ in bound]
        self._encodings = [None if loaded is None else Encodings(loaded) for _, loaded in bound]

    def use_batches_of(self, batch_tokens: int | None) -> None:
        """The server makes its own batches."""

    def score(
        self,
        checkpoint: Checkpoint,
        *,
        again: bool = False,
        variants: bool = True,
        ask: Ask | None = None,
        confirm: Confirm | None = None,
        keep: bool = False,
    ) -> tuple[list[Snapshot], list[Snapshot]]:
        """See `ModelScorer`. Nothing is scored a second time: how a server rounds and samples is its own.

        Nothing is kept either: servers give no likely tokens of documents. All items are asked their further prompts or
        none is: `ask` must be None.

        Raises:
            RuntimeError: If the command fails.
            ValueError: If the server does not answer.
        """
        assert ask is None
        model = checkpoint.model
        if self._load:
            load(self._load, model)
        server = self._server(model)
        taken = self._ask(server, variants=variants)
        if not variants and confirm is not None and confirm(taken):
            taken = self._ask(server, variants=True)
        return [one.with_metadata(model=model) for one in taken], []

    def _ask(self, server: Server, *, variants: bool) -> list[Snapshot]:
        found = []
        for probe, known in zip(self.probes, self._encodings):
            tokenizer = None if known is None else known.tokenizer
            how: dict[str, Any] = {"variants": variants, "progress": True, "encodings": known}
            found.append(score_served(server, probe, tokenizer, **how))
        return found

    def _server(self, model: str) -> Server:
        return Server.at(self._address.replace(PLACE, model), concurrency=self._concurrency)


def _is_generated(probe: Probe) -> bool:
    return all(isinstance(item, Generation) for item in probe.items)


def require_load(address: str, command: str) -> None:
    """That a server is told which checkpoint to load.

    Raises:
        ValueError: If not, or the address names no model.
    """
    Server.at(address)
    if PLACE not in address and PLACE not in command:
        raise ValueError(
            f"--served {quoted(address)} would be asked the same model each time; give --load with a command that "
            f"loads '{PLACE}' into it, or '#{PLACE}' as the model where the server loads what it is asked for"
        )
    if command and not shlex.split(command):
        raise ValueError("--load must be a command, got only spaces")


def load(command: str, model: str) -> None:
    """Runs the command that loads a model; what it prints goes to standard error.

    Raises:
        RuntimeError: If it ends with another status than 0.
    """
    words = [word.replace(PLACE, model) for word in shlex.split(command)]
    try:
        done = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=sys.__stderr__ or None, env={**os.environ})
    except OSError as error:
        raise RuntimeError(f"--load {quoted(words[0])}: {error.strerror}") from None
    if done.returncode != 0:
        raise RuntimeError(f"--load ended with status {done.returncode} for {quoted(model, 200)}")
