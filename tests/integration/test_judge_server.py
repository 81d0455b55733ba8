"""Models that `obliviate serve` serves judge an evaluation's answers: Ray Serve, transformers, HTTP."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from measured import record
from obliviate.data.rows import Role
from obliviate_eval.asked import suite_of
from obliviate_eval.judges.load import load_judges
from obliviate_eval.spec import EvaluationSpec, JudgeSpec
from obliviate_serve.spec import ServeRun
from serving import free_port
from tiny import tiny_model_folder

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("ray_local")]


def saying(word: str, folder: Path) -> Path:
    """A model that answers whatever it is asked with one word: its layers add nothing, and each token on the way there
    makes the next one likely."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tiny_model_folder(folder, hidden_size=128)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    model.config.tie_word_embeddings = False
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "?"}], add_generation_prompt=True, return_dict=False
    )
    said = tokenizer(word, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        embedding_VD = model.get_input_embeddings().weight
        head_VD = torch.zeros_like(embedding_VD)
        for now, then in pairwise([prompt[-1], *said, tokenizer.eos_token_id]):
            head_VD[then] += 100 * embedding_VD[now]
        model.lm_head.weight = torch.nn.Parameter(head_VD)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def url(ray_local: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    from ray import serve

    from obliviate_serve.backend import APP
    from obliviate_serve.deploy import application

    folder, port = tmp_path_factory.mktemp("judges"), free_port()
    models = {word: {"source": str(saying(word, folder / word))} for word in ("yes", "no")}
    spec = ServeRun.model_validate(
        {
            "models": models,
            "aliases_file": str(folder / "aliases.json"),
            "engine": {"type": "hf", "dtype": "float32", "max_model_len": 256, "cpus_per_replica": 0.2},
            "http": {"port": port},
            "limits": {"start_s": 150, "drain_s": 1},
            "access_log": str(folder / "access.jsonl"),
        }
    )
    serve.run(application(spec, listens=True), name=APP, route_prefix="/")
    yield f"http://127.0.0.1:{port}/v1"
    serve.shutdown()


@pytest.mark.parametrize(("model", "expected"), [("yes", True), ("no", False)])
def test_served_models_give_verdicts(url: str, tmp_path: Path, model: str, expected: bool) -> None:
    prompt = tmp_path / "prompt.txt"
    prompt.write_text("{reference} {answer} Yes or no?", encoding="utf-8")
    judge = JudgeSpec(base_url=url, model=model, prompt=str(prompt), max_tokens=8)
    spec = EvaluationSpec(suite="tofu", judge=judge)
    judges, suite = load_judges(spec, tmp_path / "judged"), suite_of(spec)
    records = [record(Role.FORGET, index=i, generation=f"The cat {i}.") for i in range(4)]
    assert [each.verdict for each in judges.judge(records, suite)] == [expected] * 4
    assert judges.verdict is not None
    assert judges.verdict.unanswered == {}
    assert len(list((tmp_path / "judged").glob("*.json"))) == 5  # the trial's reply too
