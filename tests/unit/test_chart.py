"""The Helm chart: by Helm's library it renders what the overlays of kustomize do, and fits KubeRay's definitions."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from kuberay import ROOT, Document, pods_of, problems, render, with_secrets

helm = pytest.importorskip("helm_python", reason="the package helm-python-sdk is not installed")
CHART = ROOT / "k8s" / "chart"
LAPTOP = yaml.safe_load((CHART / "laptop.yaml").read_text(encoding="utf-8"))
BUCKET = {"bucket": "s3://obliviate/runs", "claim": ""}
SHARED = {"networkPolicy": True, "disruptionBudgets": True, "redis": True, "podMonitor": True}


def chart(values: Document, name: str = "obliviate") -> list[Document]:
    """What `helm install NAME k8s/chart` would send."""
    with helm.Chart.load(str(CHART)) as loaded:
        rendered = loaded.render(values=values, name=name, namespace="obliviate")
    pages = [page for file, page in sorted(rendered.items()) if not file.endswith(".txt")]
    return [document for page in pages for document in yaml.safe_load_all(page) if document]


def of_ray(documents: list[Document]) -> Document:
    (found,) = [each for each in documents if each["kind"].startswith("Ray")]
    return found


def comparable(document: Document, name: str) -> Document:
    """Without the namespace, which Helm is told beside, and with the environment as kustomize calls it."""
    text = yaml.safe_dump(document["spec"]).replace(f"name: {name}-environment", "name: environment")
    spec: Document = yaml.safe_load(text)
    if (served := spec.get("serveConfigV2")) is not None:
        spec["serveConfigV2"] = yaml.safe_load(served)
    if (entrypoint := spec.get("entrypoint")) is not None:
        spec["entrypoint"] = entrypoint.split()
    return spec


@pytest.mark.parametrize(
    ("overlay", "values"),
    [
        ("laptop/demo", LAPTOP),
        ("pvc/cluster", {}),
        ("pvc/serve", {"run": "serve"}),
        *((f"pvc/{job}", {"run": job}) for job in ("evaluate", "sweep", "unlearn")),
        ("s3/cluster", BUCKET),
        *((f"s3/{job}", {"run": job, **BUCKET}) for job in ("evaluate", "sweep", "unlearn")),
    ],
)
def test_it_is_the_same_as_by_kustomize(overlay: str, values: Document, tmp_path: Path) -> None:
    (by_kustomize,) = render(with_secrets(tmp_path) / "overlays" / overlay)
    by_helm = of_ray(chart(values, "mine"))
    assert by_helm["metadata"]["name"] == "mine"
    assert problems(by_helm) == []
    assert comparable(by_helm, "mine") == comparable(by_kustomize, "mine")


def test_what_a_namespace_shares(tmp_path: Path) -> None:
    by_kustomize = render(with_secrets(tmp_path) / "overlays" / "pvc" / "setup")
    ours = {
        (each["kind"], each["metadata"]["name"]): each["spec"] for each in chart({"shared": SHARED}) if "spec" in each
    }
    del ours["RayCluster", "obliviate"]
    theirs = {(each["kind"], each["metadata"]["name"]): each.get("spec") for each in by_kustomize}
    kept = ("NetworkPolicy", "PodDisruptionBudget", "PodMonitor", "Service", "StatefulSet")
    assert ours == {key: spec for key, spec in theirs.items() if key[0] in kept}
    assert len(ours) == 6


def test_values_change_what_they_name() -> None:
    takes = {"requests": {"cpu": "2", "memory": "8Gi"}, "limits": {"cpu": "2", "memory": "8Gi"}}
    values = {
        "image": {"pullPolicy": "Never"}, "environment": {"HF_HUB_OFFLINE": "1", "NCCL_DEBUG": "WARN"},
        "gpu": {"replicas": 3, "minReplicas": 0, "shm": "8Gi", "nodeSelector": {"disk": "fast"}},
        "cpu": {"maxReplicas": 9, "resources": takes}, "redis": False,
    }  # fmt: skip
    documents = chart(values)
    spec = of_ray(documents)["spec"]
    cpu, gpu = spec["workerGroupSpecs"]
    assert (cpu["replicas"], cpu["maxReplicas"], gpu["replicas"], gpu["minReplicas"]) == (1, 9, 3, 0)
    assert cpu["template"]["spec"]["containers"][0]["resources"] == takes
    assert gpu["template"]["spec"]["nodeSelector"] == {"disk": "fast"}
    assert {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "8Gi"}} in gpu["template"]["spec"]["volumes"]
    assert "gcsFaultToleranceOptions" not in spec
    for pod in pods_of(of_ray(documents)):
        assert {each["imagePullPolicy"] for each in pod["spec"]["containers"]} == {"Never"}
    (environment,) = [each["data"] for each in documents if each["kind"] == "ConfigMap"]
    assert (environment["HF_HUB_OFFLINE"], environment["NCCL_DEBUG"], environment["HOME"]) == ("1", "WARN", "/tmp")


def test_a_job_and_a_server_of_ones_own() -> None:
    command = "obliviate unlearn /data/mine.yaml runs=/data/runs"
    job = of_ray(chart({"run": "unlearn", "entrypoint": command, "bucket": "s3://mine/runs", "claim": ""}))
    assert job["spec"]["entrypoint"] == "obliviate unlearn /data/mine.yaml runs=s3://mine/runs"
    served = {"models": {"mine": {"source": "/data/mine"}}, "tokens": "/secrets/tokens.txt"}
    config = yaml.safe_load(of_ray(chart({"run": "serve", "serve": served}))["spec"]["serveConfigV2"])
    assert config["applications"][0]["args"] == served


@pytest.mark.parametrize(
    "values",
    [{"run": "train"}, {"imagee": {}}, {"bucket": "obliviate/runs"}, {"gpu": True}, {"cpu": {"maxReplicas": 0}}],
)
def test_wrong_values_are_refused(values: Document) -> None:
    with pytest.raises(helm.HelmError, match=f"'/{next(iter(values))}|properties '{next(iter(values))}'|/cpu"):
        chart(values)


def test_helm_has_nothing_to_say() -> None:
    found: dict[str, Any] = helm.lint(str(CHART), strict=True)
    assert found["errors"] == []
    assert [each for each in found["messages"] if each["severity"] > 1] == []
