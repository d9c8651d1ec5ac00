"""A stand-in for the hub: repositories in memory behind the endpoints that a push through the real HfApi asks."""

import base64
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


class Hub(ThreadingHTTPServer):
    """`repos` are files by name, by kind and id; `states` these after each commit, and `asked` what was asked for.

    `checked` are the kinds and texts of the cards that it was asked to check.
    `refuse` are texts with which the next cards are refused, `by_hand` is what somebody adds to a card after a commit.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Answers)
        self.repos, self.states, self.asked, self.tokens, self.private = {}, [], [], set(), {}
        self.checked, self.refuse, self.by_hand = [], [], b""

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def hub():
    """A running one."""
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def _reply(self, status, body, **headers):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _note(self):
        path = unquote(urlsplit(self.path).path)
        self.server.asked.append(f"{self.command} {path}")
        self.server.tokens.add(self.headers.get("Authorization"))
        return path, path.split("/")

    def do_POST(self):
        path, parts = self._note()
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if path == "/api/validate-yaml":
            asked = json.loads(body)
            self.server.checked.append((asked["repoType"], asked["content"]))
            if self.server.refuse:
                return self._reply(400, self.server.refuse.pop(0).encode())
            return self._reply(200, {"errors": [], "warnings": []})
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = "/".join(filter(None, (asked.get("organization"), asked["name"])))
            key = asked.get("type") or "model", name
            self.server.private.setdefault(key, asked.get("private") or asked.get("visibility") == "private")
            self.server.repos.setdefault(key, {})
            return self._reply(200, {"url": f"{self.server.address}/{name}"})
        files = self.server.repos[parts[2][:-1], "/".join(parts[3:5])]
        if "preupload" in parts:
            names = [one["path"] for one in json.loads(body)["files"]]
            modes = [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]
            return self._reply(200, {"files": modes})
        for operation in map(json.loads, body.decode().splitlines()):
            value = operation["value"]
            if operation["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "deletedFile":
                del files[value["path"]]
        if parts[2] == "models":
            files["README.md"] += self.server.by_hand
        self.server.states.append({key: dict(own) for key, own in self.server.repos.items()})
        url = f"{self.server.address}/{'/'.join(parts[3:5])}/commit/{'a' * 40}"
        return self._reply(200, {"commitUrl": url, "commitOid": "a" * 40, "success": True})

    def do_GET(self):
        _, parts = self._note()
        is_api = parts[1] == "api"
        key = (parts[2][:-1], "/".join(parts[3:5])) if is_api else ("model", "/".join(parts[1:3]))
        files = self.server.repos.get(key)
        if files is None:
            return self._reply(404, {}, X_Error_Code="RepoNotFound")
        if is_api:
            tree = [{"type": "file", "path": name, "size": len(one), "oid": "b" * 40} for name, one in files.items()]
            return self._reply(200, tree if "tree" in parts else {"id": key[1], "sha": "a" * 40})
        name = "/".join(parts[5:])
        if name not in files:
            return self._reply(404, {}, X_Error_Code="EntryNotFound")
        return self._reply(200, files[name], ETag=f'"{"c" * 40}"', X_Repo_Commit="a" * 40)

    do_HEAD = do_GET
