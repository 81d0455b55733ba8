"""The connection to a cluster's jobs API: what can be wrong with it is one line each."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from obliviate.errors import UserError


def use_token() -> None:
    """Where this user has a token, have Ray send it, which it does in one mode only. Call it before Ray is imported.

    A mode that the user has set stays.
    """
    token = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    if token or (Path.home() / ".ray" / "auth_token").is_file():
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def connect(address: str) -> Any:
    """A JobSubmissionClient of the cluster whose dashboard has the URL `address`.

    Raises UserError where nothing or something else answers, where the token is refused, and where the cluster has
    another version of Ray: what a job pickles for its workers is not made to be read by others.
    """
    import ray
    from ray._private.runtime_env.packaging import create_package
    from ray.dashboard.modules.dashboard_sdk import SubmissionClient
    from ray.job_submission import JobSubmissionClient

    from obliviate.cluster import answers

    if not address.startswith(("http://", "https://")):
        raise UserError(f"--address {address}: is no URL; give that of the cluster's dashboard, http://HOST:8265")
    if not answers(address):
        raise UserError(
            f"--address {address}: nothing answers there; give the URL of the cluster's dashboard, http://HOST:8265 "
            "(kubectl port-forward service/NAME-head-svc 8265 brings it to this machine)"
        )
    os.environ["RAY_API_SERVER_ADDRESS"] = address  # else RAY_ADDRESS, where it is set, would go before the argument
    for module in (SubmissionClient.__module__, create_package.__module__):  # they tell of every package that is sent
        logging.getLogger(module).setLevel(logging.WARNING)
    with explained(address):
        client = JobSubmissionClient(address)
        theirs = client._server_ray_version  # read from the dashboard when the client connected
    if theirs != ray.__version__:
        raise UserError(
            f"--address {address}: the cluster runs Ray {theirs}, and here is Ray {ray.__version__}; install Ray "
            f"{theirs} here, or an image with Ray {ray.__version__} there"
        )
    return client


@contextmanager
def explained(address: str) -> Iterator[None]:
    """What goes wrong with a request to the cluster, as a UserError in one line."""
    from ray.exceptions import AuthenticationError
    from ray.util.state.exception import RayStateApiException

    from obliviate.cluster import SET_TOKEN

    try:
        yield
    except UserError:
        raise
    except AuthenticationError as error:
        have = "the token is refused" if "Authentication failed" in str(error) else "the cluster asks for a token"
        raise UserError(
            f"--address {address}: {have}; {SET_TOKEN} "
            "(kubectl get secret NAME -o jsonpath='{.data.auth_token}' | base64 -d)"
        ) from error
    except (OSError, RuntimeError, ValueError, KeyError, RayStateApiException) as error:
        # requests' exceptions are OSErrors; a server that is no Ray dashboard answers with other JSON, or none
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"--address {address}: the cluster's jobs API answers with an error: {reason}") from error
