"""The ports that a tree of processes listens on, and whether they can be reached from outside this machine."""

import http.client
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address

import grpc
import psutil

from processes import command


def listening(root: psutil.Process) -> dict[tuple[str, int], str]:
    """(IP address, port) of every TCP and bound UDP socket of `root` and all below it -> command line."""
    found = {}
    for process in [root, *root.children(recursive=True)]:
        try:
            sockets = process.net_connections("inet")
        except psutil.NoSuchProcess:
            continue
        for each in sockets:
            bound = each.type == socket.SOCK_DGRAM and not each.raddr
            if each.laddr and (each.status == psutil.CONN_LISTEN or bound):
                found[each.laddr.ip, each.laddr.port] = command(process)
    return found


def open_to_others(root: psutil.Process) -> list[str]:
    """Those that are bound to more than loopback, or that a connection by another address of this machine reaches.

    Somebody else may listen there under the same number: another Ray, say, on a dashboard agent's usual port.
    """
    ports = listening(root)
    assert ports, "nothing listens at all"
    mine = {each.pid for each in (root, *root.children(recursive=True))}
    listen = [each for each in psutil.net_connections("inet") if each.status == psutil.CONN_LISTEN]
    others = {each.laddr.port for each in listen if each.pid not in mine}
    bound = [f"{ip}:{port}: {title}" for (ip, port), title in ports.items() if not _loopback(ip)]
    reached = [
        f"{port} by {address}: {title}"
        for (_, port), title in ports.items()
        if port not in others
        for address in other_addresses()
        if _connects(address, port)
    ]
    return bound + reached


@contextmanager
def watched_ports() -> Iterator[list[str]]:
    """Yields a list that holds, when the block ends, what was bound to more than loopback below this process in it."""
    found: set[str] = set()
    stop, result = threading.Event(), list[str]()

    def watch() -> None:
        while not stop.wait(0.5):
            ports = listening(psutil.Process())
            found.update(f"{ip}: {title}" for (ip, _), title in ports.items() if not _loopback(ip))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield result
    finally:
        stop.set()
        watcher.join()
        result += sorted(found)


def other_addresses() -> list[str]:
    """This machine's addresses that are not loopback; none without a network."""
    families = (socket.AF_INET, socket.AF_INET6)
    addresses = [each.address for card in psutil.net_if_addrs().values() for each in card if each.family in families]
    return [address for address in addresses if "%" not in address and not _loopback(address)]


def _loopback(ip: str) -> bool:
    address = ip_address(ip.partition("%")[0])
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def _connects(address: str, port: int) -> bool:
    try:
        with socket.create_connection((address, port), timeout=2):
            return True
    except OSError:
        return False


# One reading method of each of Ray's services, and what Ray Serve's replicas are asked by.
CALLS = (
    "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo",
    "/ray.rpc.NodeManagerService/GetNodeStats",
    "/ray.rpc.CoreWorkerService/GetCoreWorkerStats",
    "/ray.rpc.ReporterService/GetTraceback",
    "/ray.rpc.LogService/ListLogs",
    "/ray.serve.ASGIService/HandleRequest",
    "/ray.serve.RayServeAPIService/ListApplications",
)
# One page of each of Ray's HTTP servers, and of Ray Serve's proxy. Health, which all may ask, says "success" alone.
PAGES = ("/", "/api/version", "/api/jobs/", "/api/job_agent/jobs/any/logs", "/v1/models")
ANSWER_S = 5.0  # that a port is given


def calls(port: int, token: str | None = None) -> dict[str, grpc.StatusCode]:
    """What the port makes of each of CALLS, with an empty request; without those that it does not know."""
    found = {}
    metadata = [] if token is None else [("authorization", f"Bearer {token}")]
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        for call in CALLS:
            try:
                channel.unary_unary(call)(b"", timeout=ANSWER_S, metadata=metadata)
                code = grpc.StatusCode.OK
            except grpc.RpcError as error:
                code = error.code()
            if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                break  # it speaks something else
            if code != grpc.StatusCode.UNIMPLEMENTED:
                found[call] = code
    return found


def pages(port: int) -> dict[str, int]:
    """The status of each of PAGES, where the port speaks HTTP and gives more than Prometheus's figures."""
    found = {}
    for page in PAGES:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_S)
        try:
            connection.request("GET", page)
            answer = connection.getresponse()
            if not answer.headers.get("content-type", "").startswith("text/plain; version="):
                found[page] = answer.status
        except (OSError, http.client.HTTPException):
            break
        finally:
            connection.close()
    return found
