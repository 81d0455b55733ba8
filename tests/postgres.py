"""A PostgreSQL server of a test's own, from the system's package: on loopback, in a temporary folder."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DEBIAN = Path("/usr/lib/postgresql")


def tool(name: str) -> str | None:
    """Debian keeps initdb and pg_ctl off the path, in a folder of each version."""
    found = sorted(DEBIAN.glob(f"*/bin/{name}"), key=lambda path: float(path.parts[-3]))
    return shutil.which(name) or (str(found[-1]) if found else None)


def why_not() -> str | None:
    """Why no server can be started; None where one can."""
    if tool("pg_ctl") is None or tool("initdb") is None:
        return "PostgreSQL is not installed: no pg_ctl and initdb"
    if os.geteuid() == 0 and (shutil.which("runuser") is None or _user() is None):
        return "PostgreSQL refuses to run as root, and there is no user postgres to run it as"
    return None


@contextmanager
def server() -> Iterator[str]:
    """The URL of an empty database."""
    folder = Path(tempfile.mkdtemp(prefix="obliviate-postgres-"))
    as_user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    if as_user:
        shutil.chown(folder, "postgres")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    control = [*as_user, str(tool("pg_ctl")), "--pgdata", str(folder / "data"), "--silent", "--wait"]
    options = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories={folder}"
    create = [*as_user, str(tool("initdb")), "--pgdata", str(folder / "data"), "--auth=trust", "--username=test"]
    try:
        subprocess.run(create, check=True, capture_output=True, cwd=folder)
        subprocess.run([*control, "--log", str(folder / "log"), "-o", options, "start"], check=True, cwd=folder)
        try:
            yield f"postgresql://test@127.0.0.1:{port}/postgres"
        finally:
            subprocess.run([*control, "--mode=immediate", "stop"], check=True, cwd=folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _user() -> str | None:
    import pwd

    return next((entry.pw_name for entry in pwd.getpwall() if entry.pw_name == "postgres"), None)
