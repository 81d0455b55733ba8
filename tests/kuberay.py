"""Rendering the manifests, and checking Ray's kinds against KubeRay's definitions as an API server would, and stricter:
an unknown field, which a server drops without a word, is an error."""

import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parents[1]
DEFINITIONS = ROOT.parent / "shared" / "data" / "kuberay-crds"
OVERLAYS = sorted(
    str(path.parent.relative_to(ROOT / "k8s")) for path in ROOT.glob("k8s/overlays/*/*/kustomization.yaml")
)
Document = dict[str, Any]


def with_secrets(folder: Path) -> Path:
    """A copy of k8s/ in which every example of a secret stands for the secret itself."""
    copy = folder / "k8s"
    shutil.copytree(ROOT / "k8s", copy)
    for example in copy.rglob("*.example"):
        shutil.copy(example, example.with_suffix(""))
    return copy


def render(overlay: Path) -> list[Document]:
    """What `kubectl apply -k` would send. Skips where neither kubectl nor kustomize is installed."""
    for command in (["kubectl", "kustomize"], ["kustomize", "build"]):
        if shutil.which(command[0]):
            done = subprocess.run([*command, str(overlay)], capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{overlay}: {done.stderr}"
            return [each for each in yaml.safe_load_all(done.stdout) if each]
    pytest.skip("neither kubectl nor kustomize is installed")


def problems(document: Document) -> list[str]:
    """What KubeRay's definition of the kind says against the document."""
    validator = _validators()[document["apiVersion"], document["kind"]]
    return [f"{'/'.join(map(str, error.absolute_path))}: {error.message}" for error in validator.iter_errors(document)]


@cache
def _validators() -> dict[tuple[str, str], jsonschema.Draft202012Validator]:
    if not DEFINITIONS.is_dir():
        pytest.skip(f"KubeRay's definitions are not at hand ({DEFINITIONS})")
    found = {}
    for path in DEFINITIONS.glob("*.yaml"):
        definition = yaml.load(path.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))["spec"]
        for version in definition["versions"]:
            schema = version["schema"]["openAPIV3Schema"]
            schema["properties"]["metadata"] = {"type": "object"}  # the definition leaves it to the server
            name = f"{definition['group']}/{version['name']}", definition["names"]["kind"]
            found[name] = jsonschema.Draft202012Validator(_strict(schema))
    return found


def _strict(schema: Any) -> Any:
    """An OpenAPI schema of Kubernetes as a JSON schema.

    Required keys with a default may be missing, which the server puts in; `format` says nothing that matters here.
    """
    if isinstance(schema, list):
        return [_strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]} | {key: schema[key] for key in ("pattern",) if key in schema}
    properties = schema.get("properties")
    kept = {k: v for k, v in schema.items() if not k.startswith("x-kubernetes") and k not in ("format", "properties")}
    strict = {key: _strict(value) for key, value in kept.items()}
    if isinstance(properties, dict):
        strict["properties"] = {name: _strict(each) for name, each in properties.items()}
        strict["required"] = [name for name in schema.get("required", ()) if "default" not in properties.get(name, {})]
        if not schema.get("x-kubernetes-preserve-unknown-fields") and "additionalProperties" not in schema:
            strict["additionalProperties"] = False
    if strict.pop("nullable", False):
        strict["type"] = [strict["type"], "null"]
    return strict


def cluster_of(document: Document) -> Document:
    """The Ray cluster that a cluster, job or service describes."""
    key = {"RayJob": "rayClusterSpec", "RayService": "rayClusterConfig"}.get(document["kind"])
    spec: Document = document["spec"] if key is None else document["spec"][key]
    return spec


def pods_of(document: Document) -> list[Document]:
    """Every pod template of a document, Ray's kinds included."""
    if document["kind"].startswith("Ray"):
        cluster = cluster_of(document)
        groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
        found = [group["template"] for group in groups]
        submitter = document["spec"].get("submitterPodTemplate")
        return [*found, submitter] if submitter else found
    return [document["spec"]["template"]] if document["kind"] == "StatefulSet" else []
