"""What a closed server must withstand, the same for one in containers and one without."""

import base64
import http.client
import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

from lenet_study.server.secrets import prepare_secrets
from lenet_study.server.settings import ServerSettings

HOSTILE_HOSTS = [
    "",
    "*",
    "10.evil.example.com",
    "10.0.0.1",
    "127.0.0.1",
    "127.0.0.1.",
    "127.0.0.1:80",
    "127.0.0.1.evil.example.com",
    "127.1",
    "0.0.0.0",
    "0.0.0.0:5000",
    "192.168.0.1",
    "192.168.evil.example.com",
    "172.16.0.1",
    "172.16.evil.example.com",
    "[::1]",
    "[::1]:5000",
    "[fd00::1]",
    "fd00:evil",
    "fc00:evil.example.com",
    "localhost",
    "localhost.evil.example.com",
    "localhost:80",
    "evil.localhost",
    "server",
    "server:80",
    "server.evil.example.com:5000",
    "evil.example.com",
    "evil.example.com:5000",
    "evil.example.com#127.0.0.1",
    "user@127.0.0.1",
]
FOREIGN_ORIGINS = [
    "null",
    "*",
    "http://evil.example.com",
    "https://evil.example.com",
    "http://localhost",
    "http://localhost:3000",
    "http://127.0.0.1:1",
    "http://[::1]:5000",
    "http://127.0.0.1.evil.example.com",
    "file://",
]
CANARY = "canary-7f3a"  # lies outside of the artifacts, in files of that name

_UP = ("../", "..%2f", "%2e%2e/", "%2e%2e%2f", "%252e%252e%252f", "..\\", "..%5c", "....//", ".%00./")
_TARGETS = (CANARY, "etc/passwd", "run/secrets/admin_password", "tmp/server/private/auth.ini")
_PATHS = [up * depth + target for up, depth, target in itertools.product(_UP, (1, 2, 6), _TARGETS)]
_PATHS += ["/etc/passwd", "//etc/passwd", "%2fetc%2fpasswd", "%252fetc%252fpasswd"]
_PATHS += ["file:///etc/passwd", "file:%2f%2f%2fetc%2fpasswd", "%c0%ae%c0%ae/etc/passwd"]
_READS = (
    "/api/2.0/mlflow-artifacts/artifacts/{}",
    "/ajax-api/2.0/mlflow-artifacts/artifacts/{}",
    "/api/2.0/mlflow-artifacts/artifacts?path={}",
    "/get-artifact?run_id={run}&path={}",
    "/ajax-api/2.0/mlflow/artifacts/list?run_id={run}&path={}",
    "/model-versions/get-artifact?name=fashion-mnist-lenet&version=1&path={}",
    "/static-files/{}",
)
_WRITES = ("/api/2.0/mlflow-artifacts/artifacts/{}", "/ajax-api/2.0/mlflow-artifacts/artifacts/{}")


class Client:
    """Sends paths and headers as they are, which no polite library does."""

    def __init__(self, address: str, password: str) -> None:
        self.host = urlsplit(address).netloc
        token = base64.b64encode(f"admin:{password}".encode()).decode()
        self.login = {"Authorization": f"Basic {token}"}

    def send(self, method, path, headers=None, host=None, body=None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(self.host, timeout=60)
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            connection.putheader("Host", self.host if host is None else host)
            for name, value in (headers or {}).items():
                connection.putheader(name, value)
            connection.putheader("Content-Length", str(len(body or b"")))
            connection.endheaders(body)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


_ROUTES = """
import json
from mlflow.server import app
from lenet_study.server.middleware import create_app
guarded = create_app().app
native = [context for route in guarded.routes[:-1] for context in route.effective_route_contexts()]
routes = [(method, rule.rule) for rule in app.url_map.iter_rules() for method in rule.methods]
routes += [(method, route.path) for route in native for method in route.methods]
print(json.dumps(routes))
"""


def routes(folder: Path) -> list[tuple[str, str]]:
    """Every method and path that the server knows, placeholders filled in, from an app of its own."""
    settings = ServerSettings(secrets=folder / "secrets", state=folder, hosts="here")
    prepare_secrets(settings.secrets, settings.port)
    variables = settings.write_environment(f"sqlite:///{folder}/users.db")
    result = subprocess.run(
        [sys.executable, "-c", _ROUTES],
        env={**os.environ, **variables, "_MLFLOW_SGI_NAME": "uvicorn"},
        stdout=subprocess.PIPE,
        check=True,
    )
    rules = {(method, re.sub(r"<[^>]*>|{[^}]*}", "1", path)) for method, path in json.loads(result.stdout)}
    important = ("/signup", "/health", "/version", "/v1/traces", "/api/2.0/mlflow/users/create")
    important += ("/ajax-api/3.0/mlflow/assistant/message", "/api/2.0/mlflow-artifacts/artifacts/1")
    assert {*important} <= {path for _, path in rules}
    extra = ("/", "/nosuch", "/static-files/index.html", "/favicon.ico")
    return sorted(rules | {("GET", path) for path in extra})


def refuses_all_without_password(client: Client, folder: Path) -> int:
    """Every route answers 401 without credentials and with wrong ones; gives how many were asked."""
    wrong = base64.b64encode(b"admin:password1234").decode()
    every_route = routes(folder)
    for number, (method, path) in enumerate(every_route):
        for headers in ({}, {"Authorization": f"Basic {wrong}"}, {"Authorization": "Bearer x"}):
            if headers and path not in ("/", "/health", "/version") and number % 10:
                continue  # checking a password takes a tenth of a second
            status, _ = client.send(method, path, headers)
            assert status == 401, (method, path, headers, status)
    status, _ = client.send("GET", "/ajax-api/3.0/mlflow/assistant/config", client.login)
    assert status == 403  # it would run commands for any user
    return len(every_route)


def refuses_hosts_and_origins(client: Client) -> None:
    paths = ("/", "/health", "/version", "/api/2.0/mlflow/experiments/get?experiment_id=0")
    for host in HOSTILE_HOSTS:
        for path in paths:
            status, _ = client.send("GET", path, client.login, host=host)
            assert status in (400, 403), (host, path, status)
    for origin in FOREIGN_ORIGINS:
        for method, path in (("GET", paths[-1]), ("POST", "/api/2.0/mlflow/experiments/create")):
            status, _ = client.send(method, path, {**client.login, "Origin": origin}, body=b"{}")
            assert status == 403, (origin, method, status)
    own = {**client.login, "Origin": f"http://{client.host}"}
    assert client.send("GET", paths[-1], own)[0] == 200


def reads_nothing_outside(client: Client, run_id: str, artifact: str, secrets: list[str]) -> int:
    """No path leads out of the artifacts, for reading or writing; gives how many were tried.

    ``artifact`` is a file of the run that can be read, so that the routes are shown to read at all.
    """
    for template in (_READS[0], _READS[1], _READS[3]):
        file = artifact if "run_id" in template else f"1/{run_id}/artifacts/{artifact}"
        status, body = client.send("GET", template.replace("{run}", run_id).format(file), client.login)
        assert (status, bool(body)) == (200, True), template
    leaks = [CANARY.encode() + b"-content", b"root:x:0:0", *(secret.encode() for secret in secrets)]
    tried = 0
    for template, path in itertools.product(_READS, _PATHS):
        status, body = client.send("GET", template.replace("{run}", run_id).format(path), client.login)
        assert not any(leak in body for leak in leaks), (template, path, status)
        tried += 1
    for template, path in itertools.product(_WRITES, _PATHS):
        written = path.replace("passwd", CANARY)
        client.send("PUT", template.format(written), client.login, body=b"written")
        client.send("DELETE", template.format(written), client.login)
        tried += 2
    return tried
