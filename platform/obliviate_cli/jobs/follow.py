"""Watching a job: its output as it comes, its exit code at the end. Going away leaves the job as it is."""

import asyncio
from time import monotonic, sleep
from typing import Any

from rich.console import Console

from obliviate.errors import UserError
from obliviate_cli.jobs.client import explained

INTERRUPTED = 130  # exit code of a command that Ctrl-C ended
POLL_S = 0.5
NOTICE_S = 10.0


def how_to_attach(job: str, address: str) -> str:
    return f"obliviate attach {job} --address {address}"


def attach(client: Any, job: str, address: str, console: Console) -> int:
    """Prints what the job has printed so far and goes on; its exit code, 1 where it ended without one.

    Ctrl-C leaves the job running, with INTERRUPTED. Raises UserError where there is no such job, or the connection is
    lost.
    """
    from aiohttp import ClientError

    with explained(address):
        client.get_job_status(job)
    try:
        _wait_for_start(client, job, console)
        asyncio.run(_print_output(client, job))
        details = ended(client, job)
    except KeyboardInterrupt:
        console.print(f"\njob {job} goes on; to see it again: {how_to_attach(job, address)}")
        console.print(f"to stop it: ray job stop {job} --address {address}")
        return INTERRUPTED
    except (OSError, RuntimeError, ClientError) as error:  # requests' exceptions are OSErrors
        reason = " ".join(str(error).split())
        raise UserError(f"job {job}: connection lost ({reason}); it goes on: {how_to_attach(job, address)}") from error
    console.print(f"job {job}: {details.status.lower()}")
    if details.driver_exit_code is None and details.message:
        console.print(details.message)
    if details.driver_exit_code is not None:
        return int(details.driver_exit_code)
    return 0 if details.status == "SUCCEEDED" else 1


def _wait_for_start(client: Any, job: str, console: Console) -> None:
    """Until the job's command runs, or it has ended: say what it waits for, now and then, where it takes long."""
    told_s = monotonic()
    while (details := client.get_job_info(job)).status == "PENDING":
        if monotonic() - told_s > NOTICE_S:
            told_s = monotonic()
            console.print(f"job {job}: waits: {' '.join((details.message or 'the cluster does not say why').split())}")
        sleep(POLL_S)


async def _print_output(client: Any, job: str) -> None:
    async for lines in client.tail_job_logs(job):
        print(lines, end="", flush=True)


def ended(client: Any, job: str) -> Any:
    """The job's details once it has ended: its output ends a moment before."""
    while not (details := client.get_job_info(job)).status.is_terminal():
        sleep(POLL_S)
    return details
