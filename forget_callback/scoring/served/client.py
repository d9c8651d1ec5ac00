"""An OpenAI-compatible server through the `openai` client: concurrent requests, and when to give up on it.

The client retries with backoff, honours Retry-After, and drops the API key when a redirect leaves the server. The key
is read from OPENAI_API_KEY, sent to the server and written nowhere. Knows nothing of probes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from forget_callback.probes.quoting import quoted

Body = Mapping[str, Any]
# A wrong address or key fails every request.
_FATAL = {401, 403, 404, 405}
# What the client retries, and 5xx; any other status would come again.
_RETRIED = {408, 409, 429}


@dataclass(frozen=True)
class Unanswered:
    """A request without an answer.

    Attributes:
        problem: Why, for people.
        refused: Whether the server rejected this request and would reject it again; else all attempts failed.
    """

    problem: str
    refused: bool = False


def is_address(model: str) -> bool:
    """Whether a MODEL argument is a server's address."""
    return model.startswith(("http://", "https://"))


@dataclass(frozen=True)
class Server:
    """A model on a server.

    Attributes:
        url: Such as ``http://localhost:8000/v1``.
        model: The name that the server knows it by.
        concurrency: Requests in flight at once.
        attempts: How often a request is sent at most.
    """

    url: str
    model: str
    concurrency: int = 16
    attempts: int = 6

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

    def request(self, path: str, body: Body) -> dict[str, Any] | Unanswered:
        """The first choice of the response to a request, with what the server counted as `usage`.

        Args:
            path: Below the server's address, such as "completions".
            body: Of the request; the model is filled in here.

        Raises:
            ValueError: If the server rejects every request: the address or the key is wrong.
            ImportError: If openai is not installed.
        """
        client = self._client
        from openai import APIConnectionError, APIStatusError

        try:
            found = client.post(f"/{path}", cast_to=object, body={"model": self.model, **body})
            return {**found["choices"][0], "usage": found.get("usage")}
        except APIStatusError as error:
            reason = " ".join((error.response.text or error.response.reason_phrase).split())[:300]
            problem, status = f"HTTP status {error.status_code}: {reason}", error.status_code
            if status in _FATAL:
                raise ValueError(f"{self.url}/{path} refused model {quoted(self.model)}: {problem}") from None
            if status not in _RETRIED and status < 500:
                return Unanswered(problem, refused=True)
        except APIConnectionError as error:
            cause = error.__cause__ or error
            problem = f"{type(cause).__name__}: {cause}"
        except (ValueError, LookupError, TypeError) as error:
            return Unanswered(f"malformed response: {type(error).__name__}: {error}")
        return Unanswered(f"{problem} ({self.attempts} attempts)")

    @cached_property
    def _client(self) -> Any:
        try:
            from openai import OpenAI
        except ImportError:
            raise ImportError(
                f"{self.url} is scored through the openai client: pip install 'forget-callback[served]'"
            ) from None
        # The client insists on a key; a server without one ignores it.
        key = os.environ.get("OPENAI_API_KEY") or "none"
        return OpenAI(base_url=self.url, api_key=key, max_retries=self.attempts - 1)

    def request_all(
        self, requests: Sequence[tuple[str, Body]], *, advance: Callable[[int], object] = lambda n: None
    ) -> list[dict[str, Any] | Unanswered]:
        """The responses to requests, in their order.

        Args:
            requests: Path and body each.
            advance: Called with the number of requests that are done.

        Raises:
            ValueError: If the server is out of reach, rejects every request, or stops answering.
        """
        if not requests:
            return []
        answers = [self.request(*requests[0])]  # alone: if this fails, no other request is worth a try
        advance(1)
        self._raise_if_gone(answers)
        pool = ThreadPoolExecutor(self.concurrency)
        try:
            for future in [pool.submit(self.request, *request) for request in requests[1:]]:
                answers.append(future.result())
                advance(1)
                self._raise_if_gone(answers[-2 * self.concurrency :])
        finally:
            pool.shutdown(cancel_futures=True)
        return answers

    def _raise_if_gone(self, answers: Sequence[dict[str, Any] | Unanswered]) -> None:
        """Gives up where the first request failed, or all of the last ones."""
        lost = [answer for answer in answers if isinstance(answer, Unanswered) and not answer.refused]
        if len(lost) == len(answers) in (1, 2 * self.concurrency):
            raise ValueError(f"{self.url} does not answer for model {quoted(self.model)}: {lost[-1].problem}")
