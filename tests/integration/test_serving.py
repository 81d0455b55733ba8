"""The real server: Ray Serve, vLLM and Hugging Face side by side on tiny models, asked by the official client."""

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any, NamedTuple

import grpc
import httpx
import openai
import psutil
import pytest

from obliviate.inference.vllm import vllm_available
from obliviate_serve.spec import ServeRun
from open_ports import CALLS, calls, listening, open_to_others, other_addresses, pages
from processes import descendants
from serving import free_port
from tiny import adapter_folder, tiny_model_folder

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("ray_local")]

QUESTION = "Who lives in London?"
USER = {"role": "user", "content": QUESTION}
VLLM = "vllm" if vllm_available(gpu=False) else "hf"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Heads of 32: the smallest that vLLM's kernels for CPUs take.
    return tiny_model_folder(tmp_path_factory.mktemp("model"), hidden_size=128)


class Ways(NamedTuple):
    """To one gateway, as `obliviate serve` and as `serve deploy` have it; and its access log."""

    itself: str
    by_proxy: str
    log: Path


@pytest.fixture(scope="module")
def ways(ray_local: None, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ways]:
    """`fast` and `plain` are one model on two engines, each with an adapter; `rare` and `rarer` share one place."""
    from ray import serve

    from obliviate_serve.backend import APP
    from obliviate_serve.deploy import application

    folder = tmp_path_factory.mktemp("serving")
    other = tiny_model_folder(folder / "other", hidden_size=128, seed=1)
    adapter = adapter_folder(model, folder / "adapter")
    hf = {"type": "hf", "dtype": "float32", "max_model_len": 256, "cpus_per_replica": 0.2}
    port, proxy_port = free_port(), free_port()
    spec = ServeRun.model_validate(
        {
            "models": {
                "fast": {"source": str(model), "engine": {**hf, "type": VLLM}},
                "fast-adapted": {"source": str(adapter), "adapter_of": "fast"},
                "plain": {"source": str(model)},
                "plain-adapted": {"source": str(adapter), "adapter_of": "plain"},
                "rare": {"source": str(model), "on_demand": True},
                "rarer": {"source": str(other), "on_demand": True},
                "gone": {"source": str(folder / "nowhere"), "on_demand": True},
            },
            "aliases": {"production": "plain"},
            "aliases_file": str(folder / "aliases.json"),
            "engine": hf,
            "http": {"port": port},
            "limits": {"start_s": 150, "drain_s": 5},
            "access_log": str(folder / "access.jsonl"),
        }
    )
    (folder / "nowhere").mkdir()
    app = application(spec, listens=True)
    (folder / "nowhere").rmdir()  # after the server has looked at it
    serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": proxy_port})
    serve.run(app, name=APP, route_prefix="/")
    yield Ways(f"http://127.0.0.1:{port}", f"http://127.0.0.1:{proxy_port}", folder / "access.jsonl")
    serve.shutdown()


@pytest.fixture(scope="module")
def url(ways: Ways) -> str:
    return ways.itself


@pytest.fixture(params=["itself", "by_proxy"])
def either_url(ways: Ways, request: pytest.FixtureRequest) -> str:
    way: str = getattr(ways, request.param)
    return way


@pytest.fixture(scope="module")
def client(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60)


def test_no_port_is_open_to_others(either_url: str) -> None:
    """Neither the gateway's, nor Ray's and its Serve's: proxy, replicas' gRPC servers, and engines'."""
    assert httpx.get(f"{either_url}/healthz").status_code == 200
    if not other_addresses():
        pytest.skip("this machine has no address but loopback")
    assert open_to_others(psutil.Process()) == []


def test_no_port_answers_a_process_without_the_token(ways: Ways) -> None:
    """Of the same user on this machine, port by port: Ray's processes, Ray Serve's replicas and controller, dashboards.
    With the token the same calls are let in, so it was the token that was missed."""
    import ray

    token = ray.get(ray.remote(lambda: os.environ["RAY_AUTH_TOKEN"]).remote())
    ours = {int(url.rpartition(":")[2]) for url in (ways.itself, ways.by_proxy)}  # they have tokens of their own
    ports = sorted({port for _, port in listening(psutil.Process())} - ours)
    with ThreadPoolExecutor(len(ports)) as pool:  # those that never answer are waited for side by side
        without, let_in, read = (list(pool.map(ask, ports)) for ask in (calls, lambda port: calls(port, token), pages))
    for port, refused, answered, pages_read in zip(ports, without, let_in, read, strict=True):
        assert set(refused.values()) <= {grpc.StatusCode.UNAUTHENTICATED}, (port, refused)
        assert grpc.StatusCode.UNAUTHENTICATED not in answered.values(), (port, answered)
        apis = {page: status for page, status in pages_read.items() if page != "/"}
        assert set(apis.values()) <= {401, 404}, (port, apis)
    assert {call for refused in without for call in refused} >= {
        call for call in CALLS if "RayServeAPIService" not in call
    }


def test_the_official_client(either_url: str) -> None:
    client = openai.OpenAI(base_url=f"{either_url}/v1", api_key="none", max_retries=0, timeout=60)
    assert [model.id for model in client.models.list()][:2] == ["fast", "fast-adapted"]
    for model in ("fast", "plain"):
        asked: dict[str, Any] = {"model": model, "prompt": "The author", "max_tokens": 8, "temperature": 0}
        whole = client.completions.create(**asked, logprobs=2, echo=True)
        streamed = "".join(each.choices[0].text for each in client.completions.create(**asked, stream=True))
        assert whole.choices[0].text == "The author" + streamed
        logprobs = whole.choices[0].logprobs
        assert logprobs is not None
        assert logprobs.token_logprobs is not None
        assert len(logprobs.token_logprobs) == whole.usage.total_tokens  # type: ignore[union-attr]
        messages: Any = [{"role": "user", "content": QUESTION}]
        sampled = {"model": model, "messages": messages, "max_tokens": 6, "seed": 5, "n": 3}
        choices = client.chat.completions.create(**sampled).choices  # type: ignore[call-overload]
        assert [c.message.content for c in choices] == [
            c.message.content
            for c in client.chat.completions.create(**sampled).choices  # type: ignore[call-overload]
        ]
        pieces: dict[int, str] = {0: "", 1: "", 2: ""}
        for chunk in client.chat.completions.create(**sampled, stream=True):  # type: ignore[call-overload]
            for choice in chunk.choices:
                pieces[choice.index] += choice.delta.content or ""
        assert list(pieces.values()) == [c.message.content for c in choices]
    with pytest.raises(openai.NotFoundError, match="there is no model 'nope'; known: fast, "):
        client.completions.create(model="nope", prompt="x")
    with pytest.raises(openai.BadRequestError, match="the prompt has 300 tokens; this model takes up to 255"):
        client.completions.create(model="fast", prompt=[5] * 300)


def test_both_engines_measure_the_same(url: str) -> None:
    """float32: log-probabilities, entropies, adapters and the true answer's probability agree to 1e-3 nats."""
    names = ["fast", "plain", "fast-adapted", "plain-adapted"]
    asked = {
        "models": names, "question": QUESTION, "answer": "Ada Lovelace.", "max_tokens": 12, "samples": 1,
        "reference": "plain", "system": "Be brief.", "history": [{"role": "user", "content": "Hello"}],
    }  # fmt: skip
    results = httpx.post(f"{url}/v1/probe", json=asked, timeout=60).raise_for_status().json()["results"]
    assert [each["model"] for each in results] == names
    for fast, plain in (results[:2], results[2:]):
        assert fast["greedy"]["text"] == plain["greedy"]["text"]
        pairs = zip(fast["greedy"]["tokens"], plain["greedy"]["tokens"], strict=True)
        for some, other in pairs:
            assert some["text"] == other["text"]
            assert some["logp"] == pytest.approx(other["logp"], abs=1e-3)
            assert some["entropy"] == pytest.approx(other["entropy"], abs=1e-3)
        assert fast["true_answer"]["logp"] == pytest.approx(plain["true_answer"]["logp"], abs=1e-3)
        assert len(fast["true_answer"]["tokens"]) == len(plain["true_answer"]["tokens"]) > 1
        for some, other in zip(fast["true_answer"]["tokens"], plain["true_answer"]["tokens"], strict=True):
            assert some["text"] == other["text"]
            assert some["logp"] == pytest.approx(other["logp"], abs=1e-3)
            assert some["entropy"] == pytest.approx(other["entropy"], abs=1e-3)
            assert [each["text"] for each in some["alternatives"]] == [each["text"] for each in other["alternatives"]]
            assert some["rank"] == pytest.approx(other["rank"], abs=3)  # of 384, those as likely to 1e-3 in any order
        assert fast["true_answer"]["key"] == plain["true_answer"]["key"] != []
        assert fast["change"]["key_logp"] == pytest.approx(plain["change"]["key_logp"], abs=1e-3)
        assert fast["change"]["logp"] == pytest.approx(plain["change"]["logp"], abs=2e-3)
        assert len(fast["samples"][0]["tokens"]) > 0
    assert results[0]["greedy"]["text"] != results[2]["greedy"]["text"]


def test_both_engines_weigh_tokens_alike(url: str) -> None:
    """Greedy under penalties and a bias: the same tokens, with the log-probabilities that the model itself has."""
    asked = {"prompt": "The author", "max_tokens": 24, "temperature": 0, "logprobs": 0, "ignore_eos": True}
    weights = {"presence_penalty": 0.7, "frequency_penalty": 1.2, "logit_bias": {"40": 1.5}}
    texts = []
    for change in ({}, weights):
        answers = [
            httpx.post(f"{url}/v1/completions", json={"model": model, **asked, **change}, timeout=60).json()
            for model in ("fast", "plain")
        ]
        (fast,), (plain,) = (answer["choices"] for answer in answers)
        assert fast["text"] == plain["text"]
        assert fast["logprobs"]["token_logprobs"] == pytest.approx(plain["logprobs"]["token_logprobs"], abs=1e-3)
        texts.append(plain["text"])
    assert texts[0] != texts[1]


def test_an_answer_in_json(url: str) -> None:
    schema = {"type": "object", "properties": {"city": {"enum": ["Oslo", "Rome"]}}, "required": ["city"]}
    schema |= {"additionalProperties": False}
    form = {"type": "json_schema", "json_schema": {"name": "place", "schema": schema}}
    asked = {"messages": [USER], "max_tokens": 60, "response_format": form}

    def ask(model: str, **change: Any) -> httpx.Response:
        return httpx.post(f"{url}/v1/chat/completions", json={"model": model, **asked, **change}, timeout=60)

    refused = ask("plain")
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "response_format")
    if VLLM == "hf":
        pytest.skip("vLLM for CPUs is not installed")
    answer = ask("fast").raise_for_status().json()["choices"][0]
    assert json.loads(answer["message"]["content"])["city"] in ("Oslo", "Rome")
    form["json_schema"]["schema"] = {"type": "nonsense"}  # type: ignore[index]
    wrong = ask("fast")
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "response_format")


def test_tokens_and_a_begun_answer(url: str) -> None:
    for model in ("fast", "plain"):
        found = httpx.post(f"{url}/tokenize", json={"model": model, "prompt": "The author"}, timeout=60).json()
        assert (found["count"], found["max_model_len"]) == (len(found["tokens"]), 256)
        text = httpx.post(f"{url}/detokenize", json={"model": model, "tokens": found["tokens"]}, timeout=60).json()
        assert text == {"prompt": "The author"}
        begun = [USER, {"role": "assistant", "content": "Ada"}]
        asked = {"model": model, "messages": begun, "continue_final_message": True, "max_tokens": 4, "temperature": 0}
        went_on = httpx.post(f"{url}/v1/chat/completions", json=asked, timeout=60).raise_for_status().json()
        laid_out = httpx.post(
            f"{url}/tokenize", json={"model": model, "messages": begun, "continue_final_message": True}, timeout=60
        ).json()
        assert went_on["usage"]["prompt_tokens"] == laid_out["count"]


def test_a_deterministic_probe_is_the_same_each_time(url: str) -> None:
    """To the last digit, beside others' requests of changing number and length, which wait for it."""
    probe = {
        "models": ["fast"],
        "question": QUESTION,
        "answer": "Ada Lovelace.",
        "max_tokens": 16,
        "deterministic": True,
    }

    async def run() -> list[Any]:
        async with httpx.AsyncClient(base_url=url, timeout=120) as client:
            stop = False

            async def load(seed: int) -> int:
                random, answered = Random(seed), 0
                while not stop:
                    ids = [random.randrange(5, 300) for _ in range(random.randrange(1, 60))]
                    asked = {"model": "fast", "prompt": ids, "max_tokens": random.randrange(1, 30)}
                    answered += (await client.post("/v1/completions", json=asked)).status_code == 200
                return answered

            loads = [asyncio.create_task(load(seed)) for seed in range(6)]
            found = [(await client.post("/v1/probe", json=probe)).raise_for_status().json() for _ in range(6)]
            stop = True
            assert min(await asyncio.gather(*loads)) > 0
            return [each["results"] for each in found]

    first, *others = asyncio.run(run())
    assert all(other == first for other in others)


# `vllm bench serve`, whose command asks for a package of the name vllm, which the one for CPUs is not.
BENCH_SERVE = """
from argparse import ArgumentParser
from vllm.benchmarks.serve import add_cli_args, main
add_cli_args(parser := ArgumentParser())
main(parser.parse_args())
"""


def test_vllms_benchmark_runs_against_it(url: str, model: Path, tmp_path: Path) -> None:
    if VLLM == "hf":
        pytest.skip("vLLM for CPUs is not installed")
    sizes = ["--num-prompts", "4", "--random-input-len", "8", "--random-output-len", "4", "--max-concurrency", "2"]
    command = ["--base-url", url, "--model", str(model), "--served-model-name", "fast", "--dataset-name", "random"]
    saved = ["--save-result", "--result-dir", str(tmp_path), "--result-filename", "found.json"]
    done = subprocess.run(
        [sys.executable, "-c", BENCH_SERVE, *command, *sizes, *saved], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((tmp_path / "found.json").read_text())
    assert (found["completed"], found["total_output_tokens"]) == (4, 16)


def test_lm_evaluation_harness_reads_its_answers(url: str, model: Path) -> None:
    """Requests as the harness writes them, answers as it reads them: its log-likelihoods are those of a forward pass.

    Its classes are used without their transport, which needs the harness's extra [api].
    """
    pytest.importorskip("lm_eval")
    import torch
    from lm_eval.models.openai_completions import LocalChatCompletion, LocalCompletionsAPI
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, loaded = AutoTokenizer.from_pretrained(model), AutoModelForCausalLM.from_pretrained(model)
    contexts = [tokenizer(text).input_ids for text in ("The author", "Who was")]
    whole = [ids + tokenizer(text).input_ids for ids, text in zip(contexts, (" lives in London", " it"), strict=True)]
    expected = []
    for context, ids in zip(contexts, whole, strict=True):
        with torch.inference_mode():
            logp_TV = loaded(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        expected.append(sum(logp_TV[t - 1, ids[t]].item() for t in range(len(context), len(ids))))
    for name in ("fast", "plain"):
        harness = SimpleNamespace(model=name, _max_gen_toks=8, think_end_token=None)
        payload = LocalCompletionsAPI._create_payload(harness, whole)
        answer = httpx.post(f"{url}/v1/completions", json=payload, timeout=60).raise_for_status().json()
        read = LocalCompletionsAPI.parse_logprobs(answer, whole, [len(context) for context in contexts])
        assert [logp for logp, _ in read] == pytest.approx(expected, abs=1e-3)
        settings = {"until": ["\n\n"], "do_sample": False}
        payload = LocalChatCompletion._create_payload(
            harness, [USER], generate=True, gen_kwargs=settings, eos="<|im_end|>"
        )
        answer = httpx.post(f"{url}/v1/chat/completions", json=payload, timeout=60).raise_for_status().json()
        assert LocalChatCompletion.parse_generations(harness, answer) == [answer["choices"][0]["message"]["content"]]


def test_models_on_demand_take_turns(client: openai.OpenAI, url: str) -> None:
    def ask(model: str) -> str:
        return client.completions.create(model=model, prompt="The author", max_tokens=8, temperature=0).choices[0].text

    first, other, again = ask("rare"), ask("rarer"), ask("rare")
    assert first == again == ask("plain")
    assert other != first
    with pytest.raises(openai.InternalServerError, match="could not be loaded; the server's log says why"):
        ask("gone")
    assert ask("rarer") == other


def test_an_alias_is_switched_while_it_is_asked(client: openai.OpenAI, url: str) -> None:
    before = client.completions.create(model="production", prompt="The author", max_tokens=8, temperature=0)
    put = httpx.put(f"{url}/v1/aliases/production", json={"model": "plain-adapted"})
    assert put.json() == {"aliases": {"production": "plain-adapted"}}
    after = client.completions.create(model="production", prompt="The author", max_tokens=8, temperature=0)
    assert before.choices[0].text != after.choices[0].text


def processes(deployment: str) -> list[psutil.Process]:
    """The replicas of a deployment."""
    return descendants(f"ServeReplica:obliviate:{deployment}")


def victims(model: str) -> list[psutil.Process]:
    """The process that a kill of the model's replica hits, and one of the engine inside where it has its own."""
    (replica,) = processes(f"model-{model}")
    return [replica, *descendants("EngineCore", replica)]


@pytest.mark.parametrize(("name", "which"), [("plain", 0), ("fast", -1), ("fast", 0)])
def test_a_killed_replica_gives_no_wrong_answer(url: str, name: str, which: int) -> None:
    """Of the replica itself, and of the engine's process inside it; under load, streamed and not."""
    asked = {"model": name, "prompt": "The author", "max_tokens": 100, "temperature": 0}

    async def run() -> None:
        async with httpx.AsyncClient(base_url=url, timeout=200) as client:
            expected = (await client.post("/v1/completions", json=asked)).json()["choices"][0]["text"]
            all_victims = victims(name)
            victim = all_victims[which]
            first = asyncio.Event()

            async def streamed() -> tuple[str, bool]:
                """The text, and whether it ended with an error."""
                text = ""
                async with client.stream("POST", "/v1/completions", json={**asked, "stream": True}) as response:
                    assert response.status_code == 200
                    async for line in response.aiter_lines():
                        if not line or line == "data: [DONE]":
                            continue
                        data = json.loads(line.removeprefix("data: "))
                        if "error" in data:
                            return text, True
                        text += data["choices"][0]["text"]
                        first.set()
                return text, False

            streams = [asyncio.create_task(streamed()) for _ in range(3)]
            whole = [asyncio.create_task(client.post("/v1/completions", json=asked)) for _ in range(3)]
            await first.wait()
            victim.kill()
            for response in await asyncio.gather(*whole):
                assert response.status_code == 200
                assert response.json()["choices"][0]["text"] == expected
            ends = await asyncio.gather(*streams)
            assert any(broken for _, broken in ends)
            for text, broken in ends:
                assert expected.startswith(text) if broken else text == expected
            assert (await client.post("/v1/completions", json=asked)).json()["choices"][0]["text"] == expected
            assert psutil.wait_procs(all_victims, timeout=90)[1] == []  # an engine dies with its replica

    asyncio.run(run())


def test_malformed_requests_leave_the_server_as_it_was(either_url: str) -> None:
    """Fuzzed bodies, headers and lines: each gets a 4xx or is hung up on."""
    random = Random(0)
    host, port = either_url.removeprefix("http://").split(":")
    good = json.dumps({"model": "plain", "prompt": "x", "max_tokens": 1}).encode()
    for _ in range(300):
        body = bytearray(good)
        for _ in range(random.randint(1, 8)):
            body[random.randrange(len(body))] = random.randrange(256)
        head = f"POST /v1/completions HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n"
        raw = head.encode() + b"connection: close\r\ncontent-length: %d\r\n\r\n" % len(body) + bytes(body)
        if random.random() < 0.2:
            raw = bytes(random.randrange(256) for _ in range(200)) + b"\r\n\r\n"
        with socket.create_connection((host, int(port)), timeout=30) as connection:
            connection.sendall(raw)
            answer = connection.recv(64)
        assert not answer or answer[9:10] in (b"4", b"2"), (raw, answer)  # a lucky change leaves it well formed
    assert httpx.get(f"{either_url}/healthz").status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_hangs_up_ends_its_request(ways: Ways, either_url: str, stream: bool) -> None:
    """Of sixteen long continuations, which one forward pass after another writes."""
    request_id = f"{'stream' if stream else 'whole'}-{either_url.rpartition(':')[2]}"
    asked = {"model": "plain", "prompt": "The author", "max_tokens": 200, "n": 16, "stream": stream}
    host, port = either_url.removeprefix("http://").split(":")
    body = json.dumps(asked).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n"
    head += f"x-request-id: {request_id}\r\ncontent-length: {len(body)}\r\n\r\n"
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(head.encode() + body)
        while not stream and 'obliviate_requests_under_way{model="plain"} 1.0' not in metrics(either_url):
            time.sleep(0.01)
        if stream:
            connection.recv(64)
    while not (logged := [each for each in journal(ways.log) if each["request_id"] == request_id]):
        time.sleep(0.05)
    assert logged[0]["status"] == 499
    assert 'obliviate_requests_under_way{model="plain"} 0.0' in metrics(either_url)


def metrics(url: str) -> str:
    return httpx.get(f"{url}/metrics").text


def journal(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()]


def test_a_killed_gateway_listens_again(url: str) -> None:
    (gateway,) = processes("gateway")
    gateway.kill()
    deadline_s = time.monotonic() + 60
    while True:
        try:
            if httpx.get(f"{url}/readyz").status_code == 200:
                break
        except httpx.TransportError:
            assert time.monotonic() < deadline_s
        time.sleep(0.2)
    assert processes("gateway") != [gateway]
