"""How a config becomes deployments of Ray Serve; none is started."""

from typing import Any

import pytest

from obliviate.errors import UserError
from obliviate_serve import deploy
from obliviate_serve.spec import ServeRun, ServingEngineSpec


@pytest.mark.parametrize(("type_", "gpus", "allowed"), [("vllm", 1.0, True), ("vllm", 0.0, False), ("hf", 0.0, True)])
def test_batch_invariance_is_vllms_on_gpus(
    monkeypatch: pytest.MonkeyPatch, type_: Any, gpus: float, allowed: bool
) -> None:
    monkeypatch.setattr(deploy, "chosen", lambda engine: (engine, gpus))
    engine = ServingEngineSpec(type=type_, batch_invariant=True)
    if allowed:
        assert deploy.place(engine).engine == engine
    else:
        with pytest.raises(UserError, match=r"engine.batch_invariant: vLLM has it on GPUs only; set engine.type=hf"):
            deploy.place(engine)


@pytest.mark.parametrize("invariant", [False, True])
def test_vllm_is_told_of_it_by_its_environment(invariant: bool) -> None:
    spec = ServeRun.model_validate({"models": {"original": {"source": "x"}}})
    engine = ServingEngineSpec(type="vllm", batch_invariant=invariant)
    environment = deploy._options(spec, engine, 1.0)["ray_actor_options"]["runtime_env"]["env_vars"]
    assert environment.get("VLLM_BATCH_INVARIANT") == ("1" if invariant else None)
