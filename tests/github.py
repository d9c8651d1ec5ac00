"""A stand-in for GitHub's runner and API: runs the steps of a composite action as the runner does, and keeps comments.

What it knows of expressions is what our action uses; anything else is an error.
"""

import contextlib
import json
import os
import re
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import yaml

ROOT = Path(__file__).resolve().parents[1]
ACTION = ROOT / ".github" / "actions" / "forgetting"
BOT = {"login": "github-actions[bot]", "type": "Bot"}
PULL_REQUEST = {"pull_request": {"number": 7, "head": {"sha": "0123456789abcdef"}}}


@dataclass
class Api:
    """The comments of one pull request; `refuse` is the status of every write."""

    address: str = ""
    comments: list = field(default_factory=list)
    requests: list = field(default_factory=list)
    refuse: int = 0
    login: str = ""

    def answer(self, method, path, query, body, token):
        """Status and JSON."""
        self.requests.append((method, path))
        if token != "Bearer secret-token":
            return 401, {"message": "Bad credentials"}
        if path == "/user":
            return (200, {"login": self.login}) if self.login else (403, {"message": "Resource not accessible"})
        if method == "GET" and path == "/repos/o/r/issues/7/comments":
            page, size = int(query["page"][0]), int(query["per_page"][0])
            return 200, self.comments[(page - 1) * size : page * size]
        if self.refuse:
            return self.refuse, {"message": "Resource not accessible by integration"}
        if not 0 < len(body["body"]) <= 65_536:
            return 422, {"message": "body is too long (maximum is 65536 characters)"}
        if method == "POST" and path == "/repos/o/r/issues/7/comments":
            self.comments.append({"id": len(self.comments) + 1, "user": BOT, "body": body["body"], "html_url": "u"})
            return 201, self.comments[-1]
        (found,) = [one for one in self.comments if path == f"/repos/o/r/issues/comments/{one['id']}"]
        assert method == "PATCH"
        found["body"] = body["body"]
        return 200, found


@contextlib.contextmanager
def api():
    """A server of it on this machine."""
    state = Api()

    class Handler(BaseHTTPRequestHandler):
        def _answer(self):
            parts = urlsplit(self.path)
            sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            body, token = json.loads(sent or b"{}"), self.headers["Authorization"]
            status, answer = state.answer(self.command, parts.path, parse_qs(parts.query), body, token)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        do_GET = do_POST = do_PATCH = _answer

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        state.address = f"http://127.0.0.1:{server.server_port}"
        yield state
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@dataclass
class Job:
    """What a job has when the action's steps have run: outputs by step, what each printed, the artifacts."""

    steps: dict = field(default_factory=dict)
    outputs: dict = field(default_factory=dict)
    summary: str = ""
    log: str = ""
    ran: list = field(default_factory=list)
    uploads: list = field(default_factory=list)
    failed: str = ""  # name of the first step that failed

    @property
    def commands(self):
        """The lines of the log that the runner obeys, as its documentation says."""
        found, resumed = [], None
        for line in self.log.splitlines():
            if resumed is not None:
                resumed = None if line.strip() == resumed else resumed
            elif line.startswith("::stop-commands::"):
                resumed = f"::{line.removeprefix('::stop-commands::')}::"
            elif re.match(r"\s*::", line) or "##[" in line:
                found.append(line.strip())
        return found


def run_action(inputs, api, workspace, *, event=PULL_REQUEST, only=None, outputs=None, job="gate"):
    """Runs the steps of the action with these inputs in a workspace.

    Args:
        only: Name of the only step that runs, with the `outputs` of the step "compare" that ran before.
    """
    action = yaml.safe_load((ACTION / "action.yml").read_text(encoding="utf-8"))
    assert set(inputs) <= set(action["inputs"]), "an input that the action does not have"
    assert action["runs"]["using"] == "composite"
    given = {name: str(one.get("default", "")) for name, one in action["inputs"].items()} | inputs
    missing = [name for name, one in action["inputs"].items() if one.get("required") and name not in inputs]
    assert not missing, missing
    context = {"inputs": given, "github": {"token": "secret-token"}, "steps": {"compare": {"outputs": outputs or {}}}}
    given.update({name: substitute(value, context) for name, value in given.items()})
    temporary = workspace / "runner temp"
    temporary.mkdir(exist_ok=True)
    (temporary / "event.json").write_text(json.dumps(event))
    result = Job()
    for number, step in enumerate(action["runs"]["steps"]):
        if not holds(step.get("if", "success()"), context, failed=bool(result.failed)):
            continue
        if only not in (None, step["name"]):
            continue
        result.ran.append(step["name"])
        if "uses" in step:
            result.uploads.append({key: substitute(str(value), context) for key, value in step["with"].items()})
            continue
        files = {name: temporary / f"{name}-{number}" for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")}
        for file in files.values():
            file.write_text("")
        assert step["shell"] == "bash" and "${{" not in step["run"], "an input in a shell's line would be run"
        script = temporary / f"step-{number}.sh"
        script.write_text(step["run"])
        environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "GITHUB_ACTIONS": "true",
            "GITHUB_ACTION_PATH": str(ACTION),
            "GITHUB_API_URL": api.address,
            "GITHUB_EVENT_NAME": "pull_request" if event == PULL_REQUEST else "push",
            "GITHUB_EVENT_PATH": str(temporary / "event.json"),
            "GITHUB_JOB": job,
            "GITHUB_REPOSITORY": "o/r",
            "GITHUB_RUN_ID": "99",
            "GITHUB_SERVER_URL": "https://github.example",
            "GITHUB_SHA": "fedcba9876543210",
            "GITHUB_WORKFLOW": "tests",
            "RUNNER_TEMP": str(temporary),
            **{name: str(file) for name, file in files.items()},
            **{name: substitute(str(value), context) for name, value in step.get("env", {}).items()},
        }
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", script],
            cwd=workspace,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        result.log += done.stdout
        result.summary += files["GITHUB_STEP_SUMMARY"].read_text(encoding="utf-8")
        if "id" in step:
            context["steps"][step["id"]] = {"outputs": read_outputs(files["GITHUB_OUTPUT"])}
        if done.returncode:
            result.failed = result.failed or step["name"]
    result.steps = context["steps"]
    result.outputs = {name: substitute(one["value"], context) for name, one in action["outputs"].items()}
    return result


def read_outputs(file):
    """NAME<<END, lines and END of each output, as the runner reads them."""
    found, lines = {}, iter(file.read_text(encoding="utf-8").splitlines())
    for line in lines:
        name, _, end = line.partition("<<")
        value = []
        while (part := next(lines)) != end:
            value.append(part)
        found[name] = "\n".join(value)
    return found


def look_up(path, context):
    value = context
    for name in path.split("."):
        value = value.get(name, "") if isinstance(value, dict) else ""
    assert isinstance(value, str), path
    return value


def substitute(text, context):
    shown = re.sub(r"\$\{\{\s*([\w.-]+)\s*\}\}", lambda found: look_up(found[1], context), text)
    if text.count("${{") != len(re.findall(r"\$\{\{\s*[\w.-]+\s*\}\}", text)):
        raise ValueError(f"an expression that this runner does not know: {text}")
    return shown


def holds(condition, context, *, failed):
    """Whether a step runs: `success()` or `!cancelled()` (nothing is cancelled here), and comparisons, joined by &&."""
    inner = re.fullmatch(r"\s*\$\{\{(.*)\}\}\s*", condition)
    terms = [term.strip() for term in (inner[1] if inner else condition).split("&&")]
    fine = "!cancelled()" in terms or not failed
    for term in terms:
        found = re.fullmatch(r"([\w.-]+) (==|!=) '([^']*)'", term)
        if found:
            fine &= (look_up(found[1], context).casefold() == found[3].casefold()) == (found[2] == "==")
        elif term not in ("success()", "!cancelled()"):
            raise ValueError(f"a condition that this runner does not know: {term}")
    return fine
