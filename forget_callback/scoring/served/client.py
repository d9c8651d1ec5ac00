"""An OpenAI-compatible server: many requests at once, and again where it is busy or out of reach.

Knows nothing of probes. The standard library alone: a thread a request in flight. A key is read from OPENAI_API_KEY,
sent to the server and written nowhere.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

Body = Mapping[str, Any]
# Busy, too slow, or broken for a moment; any other refusal is an answer.
_AGAIN = {408, 409, 425, 429, 500, 502, 503, 504}
# What is wrong with the address or the key is wrong for every request.
_FOR_ALL = {401, 403, 404, 405}
_LONGEST_PAUSE = 60.0


class Unanswered(Exception):
    """A request without an answer.

    Attributes:
        refused: Whether the server said why and would say so again; else it failed, or could not be reached.
    """

    def __init__(self, problem: str, *, refused: bool) -> None:
        super().__init__(problem)
        self.refused = refused


def is_address(model: str) -> bool:
    """Whether a MODEL is one on a server."""
    return model.startswith(("http://", "https://"))


@dataclass(frozen=True)
class Server:
    """A model on a server.

    Attributes:
        url: Such as ``http://localhost:8000/v1``.
        model: The name that the server knows it by.
        concurrency: Requests at once.
        attempts: How often a request is sent at most.
        pause: Seconds before the second attempt; twice as long before each further one, or as long as the server asks.
        timeout: Seconds to wait for an answer.
    """

    url: str
    model: str
    concurrency: int = 16
    attempts: int = 6
    pause: float = 0.5
    timeout: float = 600.0

    @classmethod
    def at(cls, address: str, *, concurrency: int = 16) -> Server:
        """The server that an address names.

        Raises:
            ValueError: If the address names no model.

        >>> Server.at("http://localhost:8000/v1/#org/model").url
        'http://localhost:8000/v1'
        """
        url, _, model = address.partition("#")
        if not model:
            raise ValueError(
                f"{address} names no model; expected http://HOST:PORT/v1#MODEL, with the name that the server knows "
                "the model by"
            )
        return cls(url.rstrip("/"), model, concurrency=concurrency)

    def ask(self, path: str, body: Body) -> dict[str, Any]:
        """The first choice of the answer to a request.

        Args:
            path: Below the server's address, such as "completions".
            body: Of the request; the model is filled in here.

        Raises:
            Unanswered: If there was none after all attempts, or the server refused this request.
            ValueError: If the server refuses every request: the address or the key is wrong.
        """
        problem, pause, chance = "", 0.0, random.Random()
        for attempt in range(self.attempts):
            time.sleep(min(pause, _LONGEST_PAUSE))
            pause = self.pause * 2**attempt * chance.uniform(0.75, 1.25)  # not all at the same moment
            try:
                choice = self._send(path, body)["choices"][0]
            except urllib.error.HTTPError as error:
                with error:
                    problem = f"HTTP status {error.code}: {_said(error)}"
                    if error.code in _FOR_ALL:
                        raise ValueError(f"{self.url}/{path} refused model {self.model!r}: {problem}") from None
                    if error.code not in _AGAIN:
                        raise Unanswered(problem, refused=True) from None
                    pause = max(pause, _asked_pause(error.headers.get("Retry-After")))
            except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError) as error:
                problem = f"{type(error).__name__}: {error}"
            else:
                return dict(choice)
        raise Unanswered(f"{problem} ({self.attempts} attempts)", refused=False)

    def ask_all(
        self, requests: Sequence[tuple[str, Body]], *, advance: Callable[[int], object] = lambda n: None
    ) -> list[dict[str, Any] | Unanswered]:
        """The answers to requests, in their order.

        Args:
            requests: Path and body each.
            advance: Called with the number of requests that are done.

        Raises:
            ValueError: If the server is out of reach, refuses every request, or stops to answer.
        """
        if not requests:
            return []
        answers = [self._try(*requests[0])]  # alone: if this goes wrong, nothing else is worth a try
        advance(1)
        self._raise_if_gone(answers)
        pool = ThreadPoolExecutor(self.concurrency)
        try:
            for future in [pool.submit(self._try, *request) for request in requests[1:]]:
                answers.append(future.result())
                advance(1)
                self._raise_if_gone(answers[-2 * self.concurrency :])
        finally:
            pool.shutdown(cancel_futures=True)
        return answers

    def _raise_if_gone(self, answers: Sequence[dict[str, Any] | Unanswered]) -> None:
        """Gives up where none of the first answers, or of the last ones, came."""
        lost = [answer for answer in answers if isinstance(answer, Unanswered) and not answer.refused]
        if len(lost) == len(answers) in (1, 2 * self.concurrency):
            raise ValueError(f"{self.url} does not answer for model {self.model!r}: {lost[-1]}")

    def _try(self, path: str, body: Body) -> dict[str, Any] | Unanswered:
        try:
            return self.ask(path, body)
        except Unanswered as problem:
            return problem

    def _send(self, path: str, body: Body) -> Any:
        key = os.environ.get("OPENAI_API_KEY")
        headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
        data = json.dumps({"model": self.model, **body}).encode()
        request = urllib.request.Request(f"{self.url}/{path}", data, headers)
        with urllib.request.urlopen(request, timeout=self.timeout) as answer:
            return json.loads(answer.read())


def _said(error: urllib.error.HTTPError) -> str:
    """What a server gives as its reason, in one line."""
    try:
        text = error.read().decode(errors="replace")
    except (OSError, http.client.HTTPException):
        text = ""
    return " ".join((text or str(error.reason)).split())[:300]


def _asked_pause(retry_after: str | None) -> float:
    """Seconds; a date, which servers of models do not send, counts as nothing said."""
    try:
        return float(retry_after or 0)
    except ValueError:
        return 0.0
