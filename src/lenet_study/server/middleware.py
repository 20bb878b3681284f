"""MLflow's server with passwords, closed as a whole: the app that ``mlflow server`` runs for ``server``.

MLflow answers some paths to anyone (static files, ``/health``, ``/version``, its server's description),
lets any local page post to it, and does not look at the Host header of all paths. The guard does. Its
assistant would run commands here for any user who comes from this machine: the guard leaves it out.
"""

from __future__ import annotations

from collections.abc import Iterable

from mlflow.server import auth
from mlflow.server.security_utils import get_allowed_hosts_from_env
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send


class Guard:
    """Lets through what names one of exactly these hosts, comes from no foreign page and has a password."""

    def __init__(self, app: ASGIApp, hosts: Iterable[str]) -> None:
        self.app = app
        self._hosts = frozenset(hosts)
        self._origins = {f"{scheme}://{host}" for scheme in ("http", "https") for host in self._hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on; web sockets are closed, MLflow has none."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        refusal = await self._refusal(Request(scope)) if scope["type"] == "http" else None
        await (refusal or self.app)(scope, receive, send)

    async def _refusal(self, request: Request) -> PlainTextResponse | None:
        headers = request.headers
        if headers.getlist("host") != [headers.get("host")] or headers["host"] not in self._hosts:
            return PlainTextResponse("This server has another name: see its --hosts.\n", 403)
        if any(origin not in self._origins for origin in headers.getlist("origin")):
            return PlainTextResponse("Requests of other pages are refused.\n", 403)
        user = await run_in_threadpool(auth._authenticate_fastapi_request, request)
        if user is None:
            challenge = {"WWW-Authenticate": 'Basic realm="MLflow"'}
            return PlainTextResponse("A user's name and password are wanted.\n", 401, challenge)
        if "/mlflow/assistant" in request.scope["path"]:
            return PlainTextResponse("This server has no assistant.\n", 403)
        return None


def adopt_password() -> None:
    """Make the configured password the first user's: MLflow itself does only when it makes that user."""
    name, password = auth.auth_config.admin_username, auth.auth_config.admin_password
    if not auth.store.authenticate_user(name, password):
        auth.store.update_user(name, password=password)


def create_app() -> Guard:
    """MLflow's app with users and passwords, behind the guard.

    Hosts have to be exact: MLflow's default lets in any name that begins like a private network's numbers.
    """
    hosts = get_allowed_hosts_from_env() or []
    if not hosts or any("*" in host for host in hosts):
        raise RuntimeError(f"hosts={','.join(hosts)} are not exact: name each, without *")
    return Guard(auth.create_app(), hosts)


if __name__ == "__main__":
    create_app()
    adopt_password()
