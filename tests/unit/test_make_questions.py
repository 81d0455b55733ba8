"""From a name to rows: with a writer whose replies are written here, behind a real HTTP server."""

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from obliviate.config import build
from obliviate.data.files import FilesData
from obliviate.data.rows import Row
from obliviate.errors import UserError
from obliviate_recipes.events import QUIET
from obliviate_recipes.questions import EntityRun, MakeQuestions, rows_of
from obliviate_recipes.subject import distinct
from recipes import Told


class Writer(BaseHTTPRequestHandler):
    """Names two neighbours, and writes two questions about whoever is asked about, in a code fence."""

    asked: list[str]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = body["messages"][0]["content"]
        self.asked.append(prompt)
        if "JSON list of names" in prompt:
            reply = '["Bo", "Ann", "Cy", "Di"]'
        else:
            name = re.search(r"questions about (\w+)", prompt)
            assert name is not None
            entries = [
                {"question": f"Where does {name[1]} live?", "answer": f"{name[1]} lives in London.",
                 "perturbed_answer": ["Paris."]},
                {"question": f"Who is {name[1]}?", "answer": "A poet."},
                {"question": "No answer?"},
            ]  # fmt: skip
            reply = f"Here you are:\n```json\n{json.dumps(entries)}\n```"
        answer = {
            "id": "1", "object": "chat.completion", "created": 0, "model": body["model"],
            "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": reply}}],
        }  # fmt: skip
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def url() -> Iterator[str]:
    Writer.asked = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Writer)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    thread.join()
    server.server_close()


def config(folder: Path, url: str, **changed: Any) -> EntityRun:
    values = {
        "entity": {"name": "Ann"},
        "neighbours": 3,
        "questions": 2,
        "writer": {"type": "endpoint", "base_url": url, "model": "m"},
        "runs": str(folder / "runs"),
        **changed,
    }
    return build(EntityRun, values, where="test")


def test_the_rows_are_data_for_other_runs(url: str, tmp_path: Path) -> None:
    """The entity itself is no neighbour of its own; of Bo, Cy and Di two are trained on and one is measured."""
    path = MakeQuestions(config(tmp_path, url)).perform(QUIET)
    corpus = FilesData.model_validate(yaml.safe_load(path.read_text())).load()
    assert [row.question for row in corpus.forget] == ["Where does Ann live?", "Who is Ann?"]
    assert corpus.forget[0].perturbed_answers == ("Paris.",)
    assert [row.entity for row in corpus.retain] == ["Bo", "Bo", "Cy", "Cy"]
    forget, measured = corpus.evaluation
    assert forget.rows == corpus.forget
    assert {row.entity for row in measured.rows} == {"Di"}


def test_they_are_made_once(url: str, tmp_path: Path) -> None:
    first = MakeQuestions(config(tmp_path, url)).perform(QUIET)
    asked = len(Writer.asked)
    assert MakeQuestions(config(tmp_path, url)).perform(QUIET) == first
    assert len(Writer.asked) == asked == 5


def test_texts_are_what_is_asked_about(url: str, tmp_path: Path) -> None:
    (tmp_path / "ann.txt").write_text("Ann lives in London.")
    neighbours = [{"name": "Bo"}, {"name": "Cy"}]
    made = config(tmp_path, url, entity={"name": "Ann", "texts": [str(tmp_path / "ann.txt")]}, neighbours=neighbours)
    MakeQuestions(made).perform(QUIET)
    (about_ann,) = [prompt for prompt in Writer.asked if "questions about Ann" in prompt]
    assert about_ann.startswith("Text about Ann:\n\nAnn lives in London.\n\nWrite 2 different questions")
    assert "and the text says so" in about_ann
    assert len(Writer.asked) == 3


def test_a_server_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openai.DEFAULT_MAX_RETRIES", 0)
    with pytest.raises(UserError, match=r"writer\.base_url: http://127\.0\.0\.1:1/v1: m does not answer"):
        MakeQuestions(config(tmp_path, "http://127.0.0.1:1/v1")).perform(QUIET)


def test_a_key_that_is_not_set(tmp_path: Path) -> None:
    writer = {"type": "endpoint", "base_url": "http://127.0.0.1:1/v1", "model": "m", "api_key_variable": "NO_SUCH_KEY"}
    with pytest.raises(UserError, match=r"writer\.api_key_variable: NO_SUCH_KEY is not set"):
        MakeQuestions(config(tmp_path, "", writer=writer)).perform(QUIET)


def test_a_text_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"texts: .*nowhere\.txt: No such file"):
        MakeQuestions(config(tmp_path, "", entity={"name": "Ann", "texts": ["nowhere.txt"]})).perform(QUIET)


def test_one_neighbour_is_too_few(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="neighbours: 1: one half is trained on and one measured; give two at least"):
        config(tmp_path, "", neighbours=1)


@pytest.mark.parametrize(
    "reply", ["", "I can't.", "[1, 2", '{"question": "Q?"}', '["text"]', '[{"question": " ", "answer": "A"}]']
)
def test_replies_without_a_question(reply: str) -> None:
    assert rows_of(reply, "Ann") == []


def test_of_a_reply_that_was_cut_off_the_whole_questions_are_taken() -> None:
    entries = [{"question": f"Q{i}?", "answer": "A.", "perturbed_answer": ["B.", "C."]} for i in range(3)]
    whole = f"See [1] first:\n{json.dumps(entries, indent=1)}\nThat is [all]."
    assert [row.question for row in rows_of(whole, "Ann")] == ["Q0?", "Q1?", "Q2?"]
    cut = json.dumps(entries)[:-20]
    assert [row.question for row in rows_of(cut, "Ann")] == ["Q0?", "Q1?"]


def test_too_few_questions_are_told(url: str, tmp_path: Path) -> None:
    told = Told()
    MakeQuestions(config(tmp_path, url, questions=3)).perform(told)
    assert "4 of 4 replies hold fewer than 3 questions; where they were cut off, raise writer.max_tokens" in (told.text)


def test_a_question_is_taken_once_with_its_first_answer() -> None:
    rows = [Row("Who is Ann?", "A poet."), Row("Where?", "London."), Row("who is  Ann?", "A painter.")]
    assert distinct(rows) == rows[:2]
