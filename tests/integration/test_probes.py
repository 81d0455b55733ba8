"""What the manifests' probes ask a real node: it answers without the token that everything else needs."""

import time
import urllib.error
import urllib.request

import pytest
import yaml

from kuberay import ROOT, pods_of
from raylets import RayCluster

pytestmark = [pytest.mark.integration, pytest.mark.cluster]

AGENT_PORT = "--dashboard-agent-listen-port="
WAIT_S = 60.0  # for a node's agent, which comes up behind its raylet


def status(url: str) -> int:
    """Of an answer; 0 where there is none."""
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def test_probes_need_no_token() -> None:
    cluster = yaml.safe_load((ROOT / "k8s" / "base" / "raycluster.yaml").read_text(encoding="utf-8"))
    head, worker = (pod["spec"]["containers"][0]["readinessProbe"]["httpGet"]["path"] for pod in pods_of(cluster)[:2])
    with RayCluster(cpus=1) as running:
        assert status(f"{running.dashboard}/api/jobs/") == 401
        assert status(running.dashboard + head) == 200
        (port,) = (str(each).removeprefix(AGENT_PORT) for each in running._nodes[0].args if AGENT_PORT in str(each))
        deadline_s = time.monotonic() + WAIT_S
        while (answer := status(f"http://127.0.0.1:{port}{worker}")) != 200:
            assert time.monotonic() < deadline_s, answer
            time.sleep(0.5)
