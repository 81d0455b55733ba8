"""The gateway as an HTTP server of its own, where `obliviate serve` starts Ray Serve itself.

Ray Serve's proxy would be one more process that every request and every piece of an answer passes through. Where others
start Ray Serve (`serve deploy`, a RayService, a cluster that has one already), its proxies stand before the gateway.
"""

import asyncio
import socket

import uvicorn

from obliviate_serve.door import door
from obliviate_serve.guard import Guard
from obliviate_serve.spec import HttpSpec, LimitsSpec

BACKLOG = 2048  # connections that wait to be taken
KEEP_ALIVE_S = 90  # that an idle connection is kept open, as Ray Serve's proxy does


def listen(app: Guard, http: HttpSpec, limits: LimitsSpec) -> "asyncio.Task[None]":
    """Answer requests in the running event loop until the process ends.

    Raises OSError where the host's port cannot be had. The task ends only where the server itself fails.
    """
    config = uvicorn.Config(
        app,
        http=door(limits),
        lifespan="off",
        log_config=None,
        access_log=False,  # the guard writes one
        proxy_headers=False,  # nothing here asks where a client is
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
    )
    return asyncio.get_running_loop().create_task(uvicorn.Server(config).serve(sockets=[listener(http)]))


def listener(http: HttpSpec) -> socket.socket:
    """Raises OSError where the host's port cannot be had."""
    family = socket.AF_INET6 if ":" in http.host else socket.AF_INET
    made = socket.create_server((http.host, http.port), family=family, backlog=BACKLOG)
    # Connections inherit it: a token must not wait until the client has acknowledged the one before it.
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made
