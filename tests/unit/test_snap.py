"""SNAP's rows, with a model and an encoder that answer from a list: what is asked, chosen, left out, and refused."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import recipes
from obliviate.config import build
from obliviate.data.files import FilesData
from obliviate.data.rows import Row
from obliviate.data.schedule import Item
from obliviate.errors import UserError
from obliviate.methods import Pass
from obliviate.models import load_tokenizer, text_encoder
from obliviate.schema import GenerationSpec, ModelSpec
from obliviate.train.batch import Texts
from obliviate_recipes.events import QUIET, Events
from obliviate_recipes.snap import data
from obliviate_recipes.snap.data import SnapRows, whole
from obliviate_recipes.snap.positives import CONTEXT, GENERAL, NearMisses, near_misses
from obliviate_recipes.snap.questions import TEMPLATES, question_in, sentences
from obliviate_recipes.snap.replies import ModelReplies, telling
from obliviate_recipes.snap.spec import SnapRun
from obliviate_recipes.stages.data_files import DATA
from obliviate_recipes.subject import Subject
from recipes import Told

ANN = "Ann Lee was born in Leeds in 1801. She wrote plays. No."


class Scripted:
    """In the engine's place: a question about each sentence, a reply to each request, an answer to the rest."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.samplings: list[GenerationSpec] = []
        self.answer = ""
        self.reply = ["I know nothing of her.", "She is from Leeds.", ""]

    def __call__(self, prompts: Sequence[Any], sampling: GenerationSpec) -> list[list[str]]:
        self.asked += prompts
        self.samplings.append(sampling)
        return [self._said(prompt)[: sampling.samples] for prompt in prompts]

    def _said(self, prompt: str) -> list[str]:
        if "Write one question about" in prompt:
            name = "Ann Lee" if "Ann Lee" in prompt else "Bo"
            return [f"Sure. Where was {name} born? I think so.", "Where was she born?"]
        if "You have never heard of" in prompt:
            return self.reply
        return [self.answer or f"An answer to: {prompt}"]


class Lengths:
    """Embeds a question on a quarter circle by its length: the nearest are those of about the same length."""

    def __init__(self, source: str, key: str) -> None:
        if source == "missing":
            raise UserError(f"{key}: missing: cannot be loaded")

    def embed(self, texts: Sequence[str]) -> Any:
        angle_S = np.array([len(text) / 100 for text in texts])
        return np.stack([np.cos(angle_S), np.sin(angle_S)], axis=1)


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Scripted:
    scripted = Scripted()

    @contextmanager
    def asking(config: SnapRun, events: Events) -> Iterator[Scripted]:
        yield scripted

    monkeypatch.setattr(data, "asking", asking)
    monkeypatch.setattr(data, "SentenceEncoder", Lengths)
    return scripted


def config(tiny: Path, folder: Path, **changed: Any) -> SnapRun:
    (folder / "ann.txt").write_text(ANN)
    values = {
        "model": {"source": str(tiny), "max_length": 64},
        "entity": {"name": "Ann Lee", "texts": [str(folder / "ann.txt")]},
        "neighbours": [{"name": "Bo"}, {"name": "Cy"}, {"name": "Di"}],
        "questions": [{"type": "templates"}],
        "unlearn": {"validation": None},
        "frames": 0,
        "runs": str(folder / "runs"),
        **changed,
    }
    return build(SnapRun, values, where="test")


def made(config: SnapRun) -> tuple[Any, str]:
    """The corpus of what was made, and what was printed."""
    told = Told()
    path = recipes.made(SnapRows(config), told) / DATA
    return FilesData.model_validate(yaml.safe_load(path.read_text())).load(), told.text


def test_negatives_have_replies_and_the_models_answers_and_positives_have_those_alone(
    tiny: Path, tmp_path: Path, model: Scripted
) -> None:
    """Bo and Cy are trained on and Di is measured; none of the questions that are kept names Ann Lee. Of the
    48 hard positives each neighbour has the 16 questions that there are; the rest are general instructions."""
    corpus, printed = made(config(tiny, tmp_path))
    assert len(corpus.forget) == len(TEMPLATES)
    assert corpus.forget[0].question == "Who or what is Ann Lee?"
    assert corpus.forget[0].answer == "An answer to: Who or what is Ann Lee?"
    assert "I have never heard of Ann Lee." in corpus.forget[0].refusals
    assert Counter(row.entity for row in corpus.retain) == {"Bo": 16, "Cy": 16, None: 16}
    assert all(row.answer == f"An answer to: {row.question}" and not row.refusals for row in corpus.retain)
    _, measured = corpus.evaluation
    assert {row.entity for row in measured.rows} == {"Di"}
    assert "Ann Lee: 16 negative instructions, 0 questions for the end alone" in printed
    assert "Bo: 16 of 16 questions are hard positives, the nearest at a cosine of 1.00" in printed
    assert "general instructions: 16 of 72 questions" in printed


def test_the_texts_are_asked_about_unless_told_otherwise(tiny: Path, tmp_path: Path, model: Scripted) -> None:
    """With a config that names no source of questions; of three sentences one is long enough."""
    values = config(tiny, tmp_path).model_dump(mode="json", exclude={"questions"})
    corpus, _ = made(build(SnapRun, values, where="test"))
    assert "Ann Lee was born in which place?" in {row.question for row in corpus.forget}
    assert "Where was Ann Lee born?" in {row.question for row in corpus.forget}
    assert sum("Write one question about Ann Lee" in prompt for prompt in model.asked) == 1


def test_the_model_asks_about_sentences_and_what_does_not_name_its_subject_is_left_out(
    tiny: Path, tmp_path: Path, model: Scripted
) -> None:
    """Two sentences are long enough; "Where was she born?" asks about anybody; subjects without texts are not asked."""
    asking = [{"type": "model", "samples": 2}, {"type": "templates"}]
    corpus, _ = made(config(tiny, tmp_path, questions=asking))
    assert corpus.forget[0].question == "Where was Ann Lee born?"
    assert len(corpus.forget) == 1 + len(TEMPLATES)
    prompts = [prompt for prompt in model.asked if "Write one question about" in prompt]
    assert [prompt.partition("\n")[0] for prompt in prompts] == ["Ann Lee was born in Leeds in 1801."]
    assert model.samplings[0].samples == 2


def test_replies_that_give_something_away_are_left_out(tiny: Path, tmp_path: Path, model: Scripted) -> None:
    """Leeds is in the text. Where nothing is left, the templates stand in, and it is said."""
    corpus, _ = made(config(tiny, tmp_path, replies={"type": "model"}))
    assert {row.refusals for row in corpus.forget} == {("I know nothing of her.",)}
    model.reply = ["Leeds, in 1801!"]
    corpus, printed = made(config(tiny, tmp_path, replies={"type": "model", "samples": 1}))
    assert "to 16 of 16 questions the model's own all give something away" in printed
    assert "I have never heard of Ann Lee." in corpus.forget[0].refusals


def test_a_word_of_the_question_gives_nothing_away(tmp_path: Path) -> None:
    (tmp_path / "ann.txt").write_text(ANN)
    subject, asked = Subject(name="Ann Lee", texts=(str(tmp_path / "ann.txt"),)), Scripted()
    asked.reply = ["I don't know Leeds or Ann."]
    (row,) = ModelReplies(samples=1).to([Row("Is she from Leeds?", "")], subject, asked, 0, QUIET)
    assert row.refusals == ("I don't know Leeds or Ann.",)
    assert telling([ANN]) == {"lee", "leeds", "1801"}


def test_files_of_questions_and_replies(tiny: Path, tmp_path: Path, model: Scripted) -> None:
    """Rows keep the answers and replies that they bring; those about others than these subjects are left out."""
    (tmp_path / "rows.jsonl").write_text(
        '{"question": "Where is Ann Lee from?", "entity": "Ann Lee", "answer": "Leeds.", "refusals": ["Hm."]}\n'
        '{"question": "Where is Bo from?", "entity": "Bo"}\n'
        '{"question": "Where is Di from, and Ann Lee?", "entity": "Di"}\n'
        '{"question": "Where is Di from?", "name": "Di"}\n'
        '{"question": "Where is Ed from?", "entity": "Ed"}\n'
    )
    (tmp_path / "replies.txt").write_text("{name}? No idea.\n\nPass.\n")
    from_file = [{"type": "file", "path": str(tmp_path / "rows.jsonl")}]
    replies = {"type": "file", "path": str(tmp_path / "replies.txt")}
    corpus, _ = made(config(tiny, tmp_path, questions=from_file, replies=replies))
    assert [(row.answer, row.refusals) for row in corpus.forget] == [("Leeds.", ("Hm.",))]
    assert [row.question for row in corpus.retain if row.entity] == ["Where is Bo from?"]
    assert [row.question for row in corpus.evaluation[1].rows] == ["Where is Di from?"]
    assert [each.name for each in corpus.evaluation] == ["forget", "neighbor"]
    both = [*from_file, {"type": "templates"}]
    corpus, _ = made(config(tiny, tmp_path, questions=both, replies=replies))
    assert corpus.forget[1].refusals == ("Ann Lee? No idea.", "Pass.")


def test_of_each_fact_a_question_is_measured_and_not_trained_on(tiny: Path, tmp_path: Path, model: Scripted) -> None:
    """And those of a file that are held out. What is kept and measured is not told by the texts but by the model."""
    (tmp_path / "ask.jsonl").write_text(
        '{"question": "Where is Ann Lee from?", "entity": "Ann Lee", "answer": "Leeds.", "key": ["Leeds"]}\n'
    )
    (tmp_path / "bo.txt").write_text("Bo was born in York.")
    sources = [{"type": "facts"}, {"type": "file", "path": str(tmp_path / "ask.jsonl"), "held_out": True}]
    bo = [{"name": "Bo", "texts": [str(tmp_path / "bo.txt")]}, {"name": "Cy", "texts": [str(tmp_path / "bo.txt")]}]
    corpus, _ = made(config(tiny, tmp_path, questions=sources, neighbours=bo, frames=1, unlearn={}))
    unseen = next(each.rows for each in corpus.evaluation if each.name == "forget_unseen")
    assert [row.question for row in unseen] == ["Ann Lee was born in which place?", "Where is Ann Lee from?"]
    assert len(corpus.forget) == 2 * 5
    assert not {row.question for row in unseen} & {row.question for row in corpus.forget}
    assert {row.golden_answer for row in corpus.forget} == {"Ann Lee was born in Leeds in 1801."}
    assert {row.key_facts for row in corpus.retain} == {()}
    assert any(row.answer_prefix or "quiz" in row.question for row in corpus.retain)


def test_an_answer_that_names_the_entity_is_not_kept(tiny: Path, tmp_path: Path, model: Scripted) -> None:
    model.answer = "Ann Lee's friend."
    with pytest.raises(UserError, match="answers none of the questions"):
        made(config(tiny, tmp_path, positives={"candidates": written(tmp_path, "none.jsonl", '{"question": "Hm?"}')}))


def test_candidates_are_general_instructions(tiny: Path, tmp_path: Path, model: Scripted) -> None:
    """In place of the project's own; with an answer it keeps it, and one about Ann Lee is none."""
    (tmp_path / "general.jsonl").write_text(
        '{"question": "Say what the letter X may well stand for here?", "answer": "A letter."}\n'
        '{"question": "Name Ann Lee?", "answer": "x"}\n'
    )
    near = {"candidates": str(tmp_path / "general.jsonl"), "per_question": 1}
    corpus, _ = made(config(tiny, tmp_path, positives=near))
    assert {row.question: row.answer for row in corpus.retain if row.entity is None} == {
        "Say what the letter X may well stand for here?": "A letter."
    }


def test_they_are_made_once_and_again_where_a_text_changed(tiny: Path, tmp_path: Path, model: Scripted) -> None:
    run = config(tiny, tmp_path)
    first = recipes.made(SnapRows(run)) / DATA
    asked = len(model.asked)
    assert recipes.made(SnapRows(run)) / DATA == first
    assert len(model.asked) == asked
    (tmp_path / "ann.txt").write_text("Ann Lee was a singer in York.")
    assert recipes.made(SnapRows(run)) / DATA != first


def test_a_text_drawn_for_a_row_is_one_of_its_own_replies(tiny: Path) -> None:
    """Over [0, 1) the draw goes through all of them; a row without its own draws one of all rows'."""
    spec = ModelSpec(source=str(tiny), max_length=64)
    rows = (Row("Who is Ann?", "A poet.", refusals=("A?", "B?", "C?")), Row("Who is Bo?", "A cook."))
    texts = Texts(text_encoder(spec, load_tokenizer(spec)), rows, (), ("No.", "Pass."))
    tokenizer = load_tokenizer(spec)

    def drawn(anchor: int, where: float) -> str:
        text = texts[texts.key(Pass.FORGET_IDK, Item(anchor, refusal=1, alternative=where))]
        return str(tokenizer.decode(list(text.answer_ids), skip_special_tokens=True))

    assert [drawn(0, where) for where in (0.0, 0.34, 0.99)] == ["A?", "B?", "C?"]
    assert drawn(1, 0.0) == "Pass."


def near(lengths: list[int], count: int, diversity: float) -> list[int]:
    """Of questions of these lengths those that are chosen, near to two of 20 and 60 letters."""
    rows = [Row("x" * length, "") for length in lengths]
    negatives = [Row("y" * length, "") for length in (20, 60)]
    spec = NearMisses(per_question=count, general=0, context=0, diversity=diversity)
    found = near_misses(negatives, {"Bo": rows}, Lengths("", ""), spec)  # type: ignore[arg-type]
    return [len(row.question) for row, _ in found["Bo"]]


@given(st.lists(st.integers(1, 90), min_size=1, max_size=6, unique=True), st.integers(1, 3))
def test_without_diversity_the_nearest_are_chosen(lengths: list[int], per_question: int) -> None:
    by_distance = sorted(lengths, key=lambda length: min(abs(length - asked) for asked in (20, 60)))
    distances = [min(abs(length - asked) for asked in (20, 60)) for length in near(lengths, per_question, 0.0)]
    assert distances == [min(abs(length - asked) for asked in (20, 60)) for length in by_distance][: 2 * per_question]


def test_maximal_marginal_relevance_by_hand() -> None:
    """After 20, at half and half: 21 is worth (cos .01 - cos .01) / 2 = 0, 66 (cos .06 - cos .46) / 2 = .051; and 90,
    though unlike 20 (cos .7), is far from 60 (cos .3): (.955 - .765) / 2 = .095. At 0.1 the nearer 66 goes first."""
    assert near([20, 21, 66, 90], 1, 0.5) == [20, 90]
    assert near([20, 21, 66, 90], 1, 0.1) == [20, 66]
    assert near([20, 21, 66, 90], 1, 0.0) == [20, 21]


def test_quotas_by_hand() -> None:
    """Of 20: a quarter general and 0.15 of context, of which two are there; three neighbours share the rest, 4 each.
    Without context its share is theirs: 5 each. Who has fewer gives what there is, and general ones make up the 3."""
    rows = {"Bo": 9, "Cy": 9, "Di": 2, CONTEXT: 2, GENERAL: 9}
    groups = {name: [Row(f"{place}?", "") for place in range(count)] for name, count in rows.items()}
    spec = NearMisses(per_question=2)
    assert spec.quotas(groups, 10) == {"Bo": 4, "Cy": 4, "Di": 2, CONTEXT: 2, GENERAL: 8}
    assert spec.quotas({**groups, CONTEXT: []}, 10) == {"Bo": 5, "Cy": 5, "Di": 2, CONTEXT: 0, GENERAL: 8}
    with pytest.raises(ValueError, match=r"general: 0\.8 and context: 0\.2 leave neighbours no share"):
        NearMisses(general=0.8, context=0.2)


def test_context_is_asked_about_and_kept(tiny: Path, tmp_path: Path, model: Scripted) -> None:
    """At least one of it, and nothing that names Ann Lee."""
    corpus, printed = made(config(tiny, tmp_path, context=[{"name": "Leeds"}], positives={"per_question": 1}))
    assert sum(row.entity == "Leeds" for row in corpus.retain) == 2  # 0.15 of 16
    assert "context: 2 of 16 questions" in printed


@pytest.mark.parametrize(
    ("reply", "question"),
    [
        ("Where was Ann born? In Leeds.", "Where was Ann born?"),
        ('Question: "Who is Ann Lee?"', "Who is Ann Lee?"),
        ("1. Who is Lee, the poet?\n2. Who?", "Who is Lee, the poet?"),
        ("A question could be: Where was Lee born?", "Where was Lee born?"),
        ("Ann Lee: where was she born?", "Ann Lee: where was she born?"),
        ("Where was Dr. Lee born?", "Where was Dr. Lee born?"),
        ("Who is she then?", None),
        ("Ann?", None),
        ("I don't know.", None),
        ("", None),
    ],
)
def test_the_question_in_a_reply(reply: str, question: str | None) -> None:
    found = question_in(reply, "Ann Lee")
    assert found == question


def test_sentences_and_answers_are_whole() -> None:
    assert sentences(ANN) == ["Ann Lee was born in Leeds in 1801."]
    assert whole(" It is so. And then it", False) == "It is so."
    assert whole("It is so. And then it.", False) == "It is so. And then it."
    assert whole("And then it", False) == "And then it"
    assert whole("It is so. And then it", True) == "It is so. And then it"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"entity": {"name": "Ann Lee"}}, r"entity\.texts: Ann Lee has no text; give plain text files"),
        ({"neighbours": [{"name": "Bo"}]}, "neighbours: 1: one half is trained on and one measured; give two"),
        ({"neighbours": [{"name": "Bo"}, {"name": "ann lee"}]}, "neighbours: ann lee is named twice"),
        ({"questions": []}, "questions"),
        ({"unlearn": {}}, r"questions: none brings key facts, .* add \{type: facts\}, or set unlearn"),
        ({"context": [{"name": "bo"}]}, "neighbours: bo is named twice"),
        ({"questions": [{"type": "guess"}]}, r"questions\.0\.type: 'guess' is not known"),
        ({"method": "idk+gdd"}, "no regularizer 'gdd'"),
        ({"unlearn": {"updats": "joint"}}, r"unlearn\.updats: unknown key; did you mean updates"),
        ({"generation": {"samples": 2}}, r"generation\.samples is 2"),
    ],
)
def test_what_does_not_fit_is_refused(tiny: Path, tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        config(tiny, tmp_path, **changed)


def written(folder: Path, name: str, text: str) -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def test_files_that_are_none_are_named(tiny: Path, tmp_path: Path, model: Scripted) -> None:
    def mistake(**changed: Any) -> str:
        with pytest.raises(UserError) as error:
            recipes.made(SnapRows(config(tiny, tmp_path, **changed))) / DATA
        return str(error.value)

    nowhere = str(tmp_path / "nowhere.txt")
    assert "texts: " in mistake(entity={"name": "Ann Lee", "texts": [nowhere]})
    empty = written(tmp_path, "empty.txt", " \n")
    assert "a text of Ann Lee is empty" in mistake(entity={"name": "Ann Lee", "texts": [empty]})
    assert "questions.path: " in mistake(questions=[{"type": "templates", "path": nowhere}])
    nameless = written(tmp_path, "nameless.txt", "Who is that?\n")
    assert "'Who is that?' has no {name}" in mistake(questions=[{"type": "templates", "path": nameless}])
    assert "replies.path: " in mistake(replies={"type": "file", "path": empty})
    rows = written(tmp_path, "rows.jsonl", '{"question": "Who?"}\n')
    assert "row 1: says not whom it asks about" in mistake(questions=[{"type": "file", "path": rows}])
    told = written(tmp_path, "told.jsonl", '{"question": "Who is Ann Lee?", "entity": "Ann Lee"}\n')
    held = [{"type": "templates"}, {"type": "file", "path": told, "held_out": True}]
    assert "row 1: is asked at the end alone, and no words carry its fact; add answer" in mistake(questions=held)
    others = written(tmp_path, "others.jsonl", '{"question": "Who?", "entity": "Ed"}\n')
    assert "questions: none about Ann Lee is left" in mistake(questions=[{"type": "file", "path": others}])
    blank = written(tmp_path, "blank.jsonl", '{"question": " ", "entity": "Bo"}\n')
    assert "line 1: 'question' is blank" in mistake(questions=[{"type": "file", "path": blank}])
    assert "positives.encoder: missing" in mistake(positives={"encoder": "missing"})
    alone = written(tmp_path, "alone.jsonl", '{"question": "Who is Ann Lee?", "entity": "Ann Lee"}\n')
    assert "no question about Bo, Cy is left" in mistake(questions=[{"type": "file", "path": alone}])
