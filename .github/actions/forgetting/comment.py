"""Posts the summary as a comment on the pull request, or updates the one that is there.

That it may not, or cannot, is a warning: what the gate said is not changed by it. Needs the standard library alone.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from workflow import cut, event, job_address, marker, say

LIMIT = 65_536  # characters of a comment, GitHub's
_PAGE = 100  # comments a request, at most
_NO_SUMMARY = "### ⚠️ Forgetting: error\n\nNothing was compared, which is no pass: [the log]({}) says why.\n"


def main() -> int:
    """Posts or updates; always 0."""
    try:
        print(comment(event()))
    except HTTPError as error:
        hint = ""
        if error.code in (401, 403, 404):
            hint = "; the job needs permissions: pull-requests: write, which a pull request from a fork does not get"
        say("warning", f"no comment on the pull request: {error.code} {error.reason}{hint}. The summary has it all")
    except Exception as error:  # whatever a server sends: the job ends as the gate did
        say("warning", f"no comment on the pull request: {type(error).__name__}: {error}. The summary has it all")
    return 0


def comment(happened: dict[str, Any]) -> str:
    """Posts or updates, if what happened is of a pull request; says what it did."""
    number = pull_request(happened)
    if number is None:
        return f"no comment: {os.environ.get('GITHUB_EVENT_NAME', 'this event')} is of no pull request"
    mark, path = marker(os.environ["TITLE"]), os.environ["SUMMARY"]
    text = Path(path).read_text(encoding="utf-8") if path else _NO_SUMMARY.format(job_address())
    return publish(number, mark, cut(f"{mark}\n{text}", LIMIT))


def pull_request(happened: dict[str, Any]) -> int | None:
    """Number of the pull request that started the workflow, None if none did."""
    issue = happened.get("issue", {})
    found = happened.get("pull_request") or (issue if "pull_request" in issue else {})
    return found.get("number")


def publish(number: int, mark: str, body: str) -> str:
    """Updates the first comment of ours with this mark, or posts one; says which."""
    comments = f"/repos/{os.environ['GITHUB_REPOSITORY']}/issues"
    own = find(f"{comments}/{number}/comments", mark)
    if own is None:
        return f"commented: {request('POST', f'{comments}/{number}/comments', body).get('html_url')}"
    return f"updated: {request('PATCH', f'{comments}/comments/{own}', body).get('html_url')}"


def find(path: str, mark: str) -> int | None:
    """Id of the comment that begins with the mark and is ours: anyone can write one like it."""
    page, me = 1, None
    while True:
        found = request("GET", f"{path}?per_page={_PAGE}&page={page}")
        for one in found:
            user = one.get("user") or {}
            if not (one.get("body") or "").startswith(mark):
                continue
            if user.get("type") == "User":
                me = me or login()
            if user.get("type") != "User" or user.get("login") == me:
                return int(one["id"])
        if len(found) < _PAGE:
            return None
        page += 1


def login() -> str:
    """Whose token it is; that of a workflow is no user's."""
    try:
        return str(request("GET", "/user").get("login"))
    except HTTPError:
        return "github-actions[bot]"


def request(method: str, path: str, body: str | None = None) -> Any:
    """Asks GitHub, with a text as the comment's body.

    Raises:
        HTTPError: If GitHub refuses.
        OSError: If it does not answer.
    """
    address = os.environ.get("GITHUB_API_URL", "https://api.github.com") + path
    headers = {
        "Accept": "application/vnd.github+json",
        "Authorization": f"Bearer {os.environ['TOKEN']}",
        "Content-Type": "application/json",
        "User-Agent": "forget-callback",
        "X-GitHub-Api-Version": "2022-11-28",
    }
    data = None if body is None else json.dumps({"body": body}).encode()
    with urlopen(Request(address, data, headers, method=method), timeout=30) as answer:
        return json.load(answer)


if __name__ == "__main__":
    sys.exit(main())
