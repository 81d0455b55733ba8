"""The manifests: they render, fit Kubernetes' and KubeRay's definitions, and name only what is there."""

import copy
import re
import shlex
import tomllib
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from dockerfile import dockerfile
from kuberay import OVERLAYS, ROOT, Document, cluster_of, pods_of, problems, render, with_secrets
from obliviate import kuberay
from obliviate.config import build, load
from obliviate.errors import UserError
from obliviate.nodes import Nodes, total
from obliviate_cli.jobs.needs import check_fits
from obliviate_cli.main import app
from obliviate_recipes.catalogue import RECIPES
from obliviate_recipes.costs.manifest import groups_of, nodes_of, quantity
from obliviate_serve.spec import ServeRun
from obliviate_serve.transport import transport_environment

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
KUBERNETES = "1.31"
UNKNOWN = {"PodMonitor"}  # defined by the Prometheus operator
Rendered = dict[str, list[Document]]
JOBS = [overlay for overlay in OVERLAYS if overlay.rpartition("/")[2] in ("unlearn", "evaluate", "sweep", "demo")]
OF_RAY = [overlay for overlay in OVERLAYS if not overlay.endswith("/setup")]


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Rendered:
    folder = with_secrets(tmp_path_factory.mktemp("manifests"))
    return {overlay: render(folder / overlay) for overlay in OVERLAYS}


def of_kind(documents: list[Document], kind: str) -> list[Document]:
    return [each for each in documents if each["kind"] == kind]


def ray_document(rendered: Rendered, overlay: str) -> Document:
    (document,) = rendered[overlay]
    return document


def test_what_there_is() -> None:
    assert [each.removeprefix("overlays/") for each in OVERLAYS] == [
        "laptop/demo", "laptop/setup", "pvc/cluster", "pvc/evaluate", "pvc/serve", "pvc/setup", "pvc/sweep",
        "pvc/unlearn", "s3/cluster", "s3/evaluate", "s3/setup", "s3/sweep", "s3/unlearn",
    ]  # fmt: skip


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kinds(overlay: str, rendered: Rendered) -> None:
    """A job or a service brings its cluster with it, and nothing that others use: it can be deleted by itself."""
    kinds = [each["kind"] for each in rendered[overlay]]
    match overlay.rpartition("/")[2]:
        case "setup":
            assert "Namespace" in kinds
            assert not [kind for kind in kinds if kind.startswith("Ray")]
        case "cluster":
            assert kinds == ["RayCluster"]
        case "serve":
            assert kinds == ["RayService"]
        case _:
            assert kinds == ["RayJob"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_document_lies_in_the_namespace(overlay: str, rendered: Rendered) -> None:
    for each in rendered[overlay]:
        assert each["kind"] == "Namespace" or each["metadata"]["namespace"] == "obliviate"


@pytest.mark.parametrize("overlay", OF_RAY)
def test_kuberays_definitions(overlay: str, rendered: Rendered) -> None:
    assert problems(ray_document(rendered, overlay)) == []


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (lambda spec: spec.update(submissionModee="HTTPMode"), "submissionModee"),
        (lambda spec: spec["rayClusterSpec"]["workerGroupSpecs"][0].update(maxReplica=1), "maxReplica"),
        (lambda spec: spec.update(backoffLimit="many"), "backoffLimit"),
        (lambda spec: spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"].pop("containers"), "containers"),
    ],
)
def test_mistakes_would_be_found(change: Callable[[Document], Any], where: str, rendered: Rendered) -> None:
    document = copy.deepcopy(ray_document(rendered, "overlays/pvc/unlearn"))
    change(document["spec"])
    assert any(where in problem for problem in problems(document))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kubernetes_own_definitions(overlay: str, rendered: Rendered) -> None:
    for each in rendered[overlay]:
        if not each["apiVersion"].startswith("ray.io/") and each["kind"] not in UNKNOWN:
            kubernetes_validate.validate(each, KUBERNETES, strict=True)


@pytest.mark.parametrize("overlay", OF_RAY)
def test_the_operators_rules(overlay: str, rendered: Rendered) -> None:
    """What KubeRay's webhook and controller refuse, and no definition says."""
    document = ray_document(rendered, overlay)
    spec, cluster = document["spec"], cluster_of(document)
    assert len(document["metadata"]["name"]) <= 47
    assert cluster["autoscalerOptions"]["version"] == "v2"
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    assert {group["template"]["spec"]["restartPolicy"] for group in groups} == {"Never"}
    for group in cluster["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        resources = group["template"]["spec"]["containers"][0]["resources"]
        gpus = [resources[key].get("nvidia.com/gpu") for key in ("requests", "limits")]
        assert gpus[0] == gpus[1]
    if document["kind"] == "RayJob":
        assert spec["shutdownAfterJobFinishes"]
        assert spec["ttlSecondsAfterFinished"] > 0
        assert spec["preRunningDeadlineSeconds"] < spec["activeDeadlineSeconds"]


@pytest.mark.parametrize("overlay", OF_RAY)
def test_versions(overlay: str, rendered: Rendered) -> None:
    """Of Ray as it is pinned, and the image as the Dockerfile's comment builds it."""
    document = ray_document(rendered, overlay)
    pin = next(each for each in PYPROJECT["project"]["dependencies"] if each.startswith("ray["))
    assert cluster_of(document)["rayVersion"] == pin.partition("==")[2]
    built = re.findall(r"--tag (\S+)", dockerfile())
    assert {tag.partition(":")[2].rpartition("-")[0] for tag in built} == {PYPROJECT["project"]["version"]}
    for pod in pods_of(document):
        for container in pod["spec"]["containers"]:
            assert container["image"].rpartition("/")[2] in built


@pytest.mark.parametrize("overlay", JOBS)
def test_every_command_runs_here(overlay: str, rendered: Rendered) -> None:
    """The command is the package's, its config is in the image, the overrides are right, and the pods have enough."""
    document = ray_document(rendered, overlay)
    command, verb, *arguments = shlex.split(document["spec"]["entrypoint"])
    assert command in PYPROJECT["project"]["scripts"]
    run = load(RECIPES["compare" if verb == "demo" else verb].load().takes, *_config(verb, arguments))
    where = "s3://obliviate/runs" if "/s3/" in overlay else "/data/runs"
    assert run.runs == where  # type: ignore[attr-defined]
    check_fits(run, nodes_of(groups_of(document, overlay)))


def _config(verb: str, arguments: list[str]) -> tuple[Path, list[str]]:
    """The file in this project that the image has under the name of the first argument, and the overrides."""
    if verb == "demo":
        return ROOT / "platform" / "obliviate_cli" / "demo.yaml", arguments
    source, target = re.findall(r"^COPY (configs) (\S+)$", dockerfile(), flags=re.MULTILINE)[0]
    assert arguments[0].startswith(f"{target}/")
    return ROOT / source / arguments[0].removeprefix(f"{target}/"), arguments[1:]


@pytest.mark.parametrize("overlay", [each for each in JOBS if "laptop" not in each])
def test_without_gpus_in_its_worker_groups_a_job_is_refused(overlay: str, rendered: Rendered) -> None:
    """By the same check that `obliviate plan --manifest` and `obliviate submit` make before anything is pending."""
    document = copy.deepcopy(ray_document(rendered, overlay))
    for group in cluster_of(document)["workerGroupSpecs"]:
        group["template"]["spec"]["containers"][0]["resources"]["limits"].pop("nvidia.com/gpu", None)
    _, verb, *arguments = shlex.split(document["spec"]["entrypoint"])
    with pytest.raises(UserError, match="GPUs, the cluster has 0"):
        check_fits(load(RECIPES[verb].load().takes, *_config(verb, arguments)), nodes_of(groups_of(document, overlay)))


def test_the_cluster_knows_what_it_may_grow_to(
    rendered: Rendered, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The head reads its own description, as the autoscaler does: of GPU workers that are not there, Ray says nothing.

    Four groups' worth of each; the head computes nothing."""
    description = copy.deepcopy(ray_document(rendered, "overlays/pvc/cluster"))
    gpus = cluster_of(description)["workerGroupSpecs"][1]
    assert (gpus["groupName"], gpus["minReplicas"], gpus["replicas"]) == ("gpu", 0, 0)
    asked: list[tuple[str, str]] = []

    class Api:
        def __init__(self, namespace: str) -> None:
            self.namespace = namespace

        def get(self, path: str) -> Document:
            asked.append((self.namespace, path))
            return description

    monkeypatch.setattr("ray.autoscaler._private.kuberay.node_provider.KubernetesHttpApiClient", Api)
    monkeypatch.setenv("RAY_CLUSTER_NAME", "obliviate")
    assert kuberay.described() is None  # no service account is mounted here
    (tmp_path / "namespace").write_text("obliviate")
    monkeypatch.setattr(kuberay, "NAMESPACE", tmp_path / "namespace")
    assert kuberay.described() == (Nodes(1, 0.0, 0.0), Nodes(4, 8.0, 0.0), Nodes(4, 64.0, 8.0))
    assert asked == [("obliviate", "rayclusters/obliviate")]
    del description["spec"]["enableInTreeAutoscaling"]
    assert kuberay.described() is None


def test_the_served_application(rendered: Rendered) -> None:
    """Ray Serve takes its config, the application can be imported, and its arguments are a server's config."""
    from ray.serve.schema import ServeDeploySchema

    document = ray_document(rendered, "overlays/pvc/serve")
    config = yaml.safe_load(document["spec"]["serveConfigV2"])
    ServeDeploySchema.model_validate(config)
    (application,) = config["applications"]
    module, _, name = application["import_path"].partition(":")
    assert callable(getattr(import_module(module), name))
    served = build(ServeRun, application["args"], where="args")
    mounted = [each["mountPath"] for each in pods_of(document)[1]["spec"]["containers"][0]["volumeMounts"]]
    paths = [served.tokens, served.aliases_file, served.audit.file, served.models["unlearned"].source]
    for path in paths:
        assert path is not None
        assert any(path.startswith(f"{folder}/") for folder in mounted), path
    has = total(nodes_of(groups_of(document, "serve")))
    replicas = sum(max(each.replicas, each.max_replicas or 0) for each in served.models.values())
    assert replicas * (served.engine.gpus_per_replica or 0) <= has["GPU"]


def test_an_upgrade_of_the_server_costs_no_request(rendered: Rendered) -> None:
    document = ray_document(rendered, "overlays/pvc/serve")
    assert document["spec"]["upgradeStrategy"] == {"type": "NewCluster"}
    served = build(ServeRun, yaml.safe_load(document["spec"]["serveConfigV2"])["applications"][0]["args"], where="args")
    assert document["spec"]["rayClusterDeletionDelaySeconds"] > served.limits.drain_s
    for group in cluster_of(document)["workerGroupSpecs"]:
        pod = group["template"]["spec"]
        assert pod["terminationGracePeriodSeconds"] > served.limits.drain_s
        assert pod["containers"][0]["readinessProbe"]["httpGet"] == {"path": "/-/healthz", "port": "serve"}


def test_the_head_comes_back_where_the_cluster_outlives_a_job(rendered: Rendered) -> None:
    for overlay in OF_RAY:
        tolerant = cluster_of(ray_document(rendered, overlay)).get("gcsFaultToleranceOptions")
        assert (tolerant is not None) == (overlay.rpartition("/")[2] in ("cluster", "serve"))
    setup = rendered["overlays/pvc/setup"]
    (service,) = of_kind(setup, "Service")
    port = service["spec"]["ports"][0]["port"]
    address = cluster_of(ray_document(rendered, "overlays/pvc/serve"))["gcsFaultToleranceOptions"]["redisAddress"]
    assert address == f"{service['metadata']['name']}:{port}"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_pod_has_rights_that_it_does_not_need(overlay: str, rendered: Rendered) -> None:
    """The Pod Security Standard `restricted`, which the namespace enforces; Ray's user is the image's."""
    user, group = re.findall(r"^USER (\d+):(\d+)$", dockerfile(), flags=re.MULTILINE)[0]
    for document in rendered[overlay]:
        for pod in pods_of(document):
            security = pod["spec"]["securityContext"]
            assert security["runAsNonRoot"]
            assert security["runAsUser"] > 0
            assert security["seccompProfile"] == {"type": "RuntimeDefault"}
            if document["kind"].startswith("Ray"):
                assert (security["runAsUser"], security["runAsGroup"]) == (int(user), int(group))
            for container in pod["spec"]["containers"]:
                assert container["securityContext"]["allowPrivilegeEscalation"] is False
                assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
                assert container["securityContext"]["readOnlyRootFilesystem"] is True
                if document["kind"].startswith("Ray"):  # what Ray and its libraries write
                    mounts = container["volumeMounts"]
                    assert "/tmp" in {mount["mountPath"] for mount in mounts}
                    assert {mount["name"] for mount in mounts} <= {each["name"] for each in pod["spec"]["volumes"]}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_container_says_what_it_takes_and_how_it_is_doing(overlay: str, rendered: Rendered) -> None:
    for document in rendered[overlay]:
        for pod in pods_of(document):
            for container in pod["spec"]["containers"]:
                assert set(container["resources"]) == {"requests", "limits"}
                if container["name"] != "ray-job-submitter":
                    assert {"readinessProbe", "livenessProbe"} <= set(container)


@pytest.mark.parametrize("overlay", OF_RAY)
def test_objects_stay_in_memory(overlay: str, rendered: Rendered, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where /dev/shm is smaller than what Ray wants for its objects, it writes them to a disk."""
    from ray._private import utils

    for pod in pods_of(ray_document(rendered, overlay)):
        sizes = [each["emptyDir"]["sizeLimit"] for each in pod["spec"].get("volumes", []) if each["name"] == "shm"]
        for size in map(quantity, sizes):  # the submitter has none
            monkeypatch.setattr(utils, "get_shared_memory_bytes", lambda size=size: size)
            memory = quantity(pod["spec"]["containers"][0]["resources"]["limits"]["memory"])
            assert utils.resolve_object_store_memory(int(memory), None) <= size


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_gpu_pods_tolerate_the_taint_of_gpu_nodes(overlay: str, rendered: Rendered) -> None:
    for document in rendered[overlay]:
        for pod in pods_of(document):
            wants = "nvidia.com/gpu" in pod["spec"]["containers"][0]["resources"]["limits"]
            assert wants == any(each["key"] == "nvidia.com/gpu" for each in pod["spec"].get("tolerations", []))


@pytest.mark.parametrize("overlay", OF_RAY)
def test_secrets_environments_and_claims_are_those_of_the_setup(overlay: str, rendered: Rendered) -> None:
    setup = rendered[f"{overlay.rpartition('/')[0]}/setup"]
    names = {kind: {each["metadata"]["name"] for each in of_kind(setup, kind)} for kind in
             ("Secret", "ConfigMap", "PersistentVolumeClaim")}  # fmt: skip
    document = ray_document(rendered, overlay)
    for pod in pods_of(document):
        for volume in pod["spec"].get("volumes", []):
            if "persistentVolumeClaim" in volume:
                assert volume["persistentVolumeClaim"]["claimName"] in names["PersistentVolumeClaim"]
            if "secret" in volume:
                assert volume["secret"]["secretName"] in names["Secret"]
        for source in pod["spec"]["containers"][0].get("envFrom", []):
            if "configMapRef" in source:
                assert source["configMapRef"]["name"] in names["ConfigMap"]
            else:
                assert source["secretRef"]["optional"] or source["secretRef"]["name"] in names["Secret"]
    if tolerant := cluster_of(document).get("gcsFaultToleranceOptions"):
        reference = tolerant["redisPassword"]["valueFrom"]["secretKeyRef"]
        (secret,) = [each for each in of_kind(setup, "Secret") if each["metadata"]["name"] == reference["name"]]
        assert reference["key"] in secret["data"]


def test_only_the_claim_or_the_bucket_outlives_a_cluster(rendered: Rendered) -> None:
    for overlay in OF_RAY:
        volumes = [each for pod in pods_of(ray_document(rendered, overlay)) for each in pod["spec"].get("volumes", [])]
        kept = {"persistentVolumeClaim" in each for each in volumes if each["name"] == "data"}
        assert kept == {"/s3/" not in overlay}


@pytest.mark.parametrize("storage", ["pvc", "s3"])
def test_policies_reach_every_pod(storage: str, rendered: Rendered) -> None:
    setup = rendered[f"overlays/{storage}/setup"]
    (policy,) = of_kind(setup, "NetworkPolicy")
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    selected = policy["spec"]["podSelector"]["matchLabels"]
    for overlay in (each for each in OVERLAYS if f"/{storage}/" in each):
        for document in rendered[overlay]:
            for pod in pods_of(document):
                assert selected.items() <= pod["metadata"]["labels"].items()


def test_what_prometheus_asks_is_a_port_of_every_ray_pod(rendered: Rendered) -> None:
    (monitor,) = of_kind(rendered["overlays/pvc/setup"], "PodMonitor")
    assert (monitor["apiVersion"], set(monitor["spec"])) == (
        "monitoring.coreos.com/v1", {"selector", "podMetricsEndpoints"},
    )  # fmt: skip
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    for overlay in OF_RAY:
        for pod in pods_of(ray_document(rendered, overlay)):
            container = pod["spec"]["containers"][0]
            if container["name"] != "ray-job-submitter":
                ports = {port["name"]: port["containerPort"] for port in container["ports"]}
                assert ports[endpoint["port"]] == 8080  # where KubeRay has Ray export them


def test_disruptions_are_limited_in_numbers(rendered: Rendered) -> None:
    """Of pods without a controller Kubernetes takes nothing else. Every head stays, however many jobs run; of the
    workers that serve, one."""
    budgets = of_kind(rendered["overlays/pvc/setup"], "PodDisruptionBudget")
    least = {each["metadata"]["name"]: each["spec"]["minAvailable"] for each in budgets}
    assert least["servers"] == 1
    assert least["heads"] > 100
    served = pods_of(ray_document(rendered, "overlays/pvc/serve"))
    label = next(each for each in budgets if each["metadata"]["name"] == "servers")["spec"]["selector"]["matchLabels"]
    assert [label.items() <= pod["metadata"]["labels"].items() for pod in served] == [False, True, True]


def test_streams_pass_as_the_server_wants_them(rendered: Rendered) -> None:
    for storage in ("pvc", "s3", "laptop"):
        (environment,) = of_kind(rendered[f"overlays/{storage}/setup"], "ConfigMap")
        assert transport_environment().items() <= environment["data"].items()


def test_what_the_guide_names_is_there() -> None:
    """Files and folders of the manifests and the image, and the verbs of its commands."""
    guide = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    paths = set(re.findall(r"\b(?:k8s|image|configs)/[\w./-]*\w", guide))
    assert len(paths) > 10
    assert [path for path in paths if not (ROOT / path).exists()] == []
    verbs = set(re.findall(r"(?:^|`|&& )obliviate ([a-z][\w-]+)", guide, flags=re.MULTILINE))
    assert {"plan", "submit", "attach"} <= verbs
    known = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    known |= {group.name for group in app.registered_groups if group.name}
    assert verbs <= known


def test_examples_of_secrets_hold_none() -> None:
    """They are tracked; the files that they stand for are not."""
    for example in ROOT.glob("k8s/**/*.example"):
        name = example.with_suffix("").name
        assert name in (example.parent / ".gitignore").read_text(encoding="utf-8").split()
