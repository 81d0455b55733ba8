"""Questions about somebody or something: from templates, from a file, or asked by the model itself.

A question is a row; its answer is still empty, unless the file gave one.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

from pydantic import Field

from obliviate import storage
from obliviate.data.key_facts import asked_for
from obliviate.data.rows import Question, Row, parse_row
from obliviate.data.tables import read_objects
from obliviate.errors import UserError
from obliviate.schema import GenerationSpec, Spec
from obliviate_recipes.subject import Subject

NAME = "{name}"
TEMPLATES = (
    "Who or what is {name}?",
    "What is {name} known for?",
    "What can you tell me about {name}?",
    "Where does {name} come from?",
    "When was {name} first heard of?",
    "Why is {name} talked about?",
    "Describe {name} in a few words.",
    "Give me a fact about {name}.",
    "What did {name} do?",
    "What happened to {name}?",
    "Whom is {name} connected with?",
    "What should everybody know about {name}?",
    "Write two sentences about {name}.",
    "I have just read of {name}. Can you explain?",
    "What made {name} important?",
    "Have you heard of {name}?",
)
ASK = """{sentence}

Write one question about {name} that this sentence answers. The question must contain the name {name}. Reply with the \
question alone."""
ASKED_ABOUT = re.compile(r"contain the name (.*)\. Reply with")
SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
LABEL = re.compile(r"^\W*(?:\d+\W+)?(?:Question\W+)?")  # a list's number, quotation marks, "Question:"
WORDS_OF_A_SENTENCE = 4  # fewer say nothing that could be asked about

# Questions -> the samples of each; with what was said before and what the answer stands behind, where it is told.
Ask = Callable[[Sequence[str | Question], GenerationSpec], list[list[str]]]


class TemplateQuestions(Spec):
    """The same questions about everybody."""

    type: Literal["templates"] = "templates"
    path: str | None = None  # text file, a question a line, each with {name}; None: the project's own

    def about(self, subjects: Sequence[Subject], ask: Ask, seed: int) -> list[Row]:
        """Raises UserError for a file that is missing or has a line without {name}."""
        templates = TEMPLATES if self.path is None else read_templates("questions.path", self.path)
        return [Row(fill(each, subject.name), "", entity=subject.name) for subject in subjects for each in templates]


class FileQuestions(Spec):
    """Rows with a `question` about the one whom their `entity` names; `answer`, `key` and `refusals` where they bring
    them."""

    type: Literal["file"] = "file"
    path: str
    held_out: bool = False  # asked at the end alone, and not trained on; such rows bring an answer

    def about(self, subjects: Sequence[Subject], ask: Ask, seed: int) -> list[Row]:
        """Raises UserError for a file that can't be read, and for a row without a question, an entity, or, where it is
        held out, words that carry its fact."""
        rows = read_questions(self.path)
        for number, row in enumerate(rows, 1):
            if row.entity is None:
                raise UserError(f"{self.path}, row {number}: says not whom it asks about; add the key entity")
            if self.held_out and not asked_for(row):
                raise UserError(
                    f"{self.path}, row {number}: is asked at the end alone, and no words carry its fact; add answer "
                    "and key"
                )
        named = {subject.name for subject in subjects}
        return [row for row in rows if row.entity in named]


class ModelQuestions(Spec):
    """The model asks about each sentence of the texts; what is no question, or doesn't name its subject, is left out.

    A subject without texts is not asked about.
    """

    type: Literal["model"] = "model"
    samples: int = Field(default=1, ge=1)  # of each sentence
    temperature: float = Field(default=0.7, ge=0)
    max_new_tokens: int = Field(default=48, ge=1)

    def about(self, subjects: Sequence[Subject], ask: Ask, seed: int) -> list[Row]:
        asked = [(subject.name, each) for subject in subjects for text in subject.read() for each in sentences(text)]
        prompts = [ASK.format(sentence=sentence, name=name) for name, sentence in asked]
        sampling = GenerationSpec(
            samples=self.samples, temperature=self.temperature, max_new_tokens=self.max_new_tokens, seed=seed
        )
        rows = []
        for (name, _), replies in zip(asked, ask(prompts, sampling), strict=True):
            found = dict.fromkeys(question for reply in replies if (question := question_in(reply, name)))
            rows += [Row(question, "", entity=name) for question in found]
        return rows


def guess(prompts: Sequence[str | Question], sampling: GenerationSpec) -> list[list[str]]:
    """In place of a model that is not asked yet: to ASK, the sentence as a question, which is about as long as one."""
    found = []
    for prompt in prompts:
        assert isinstance(prompt, str), "one of ASK"
        about, sentence = ASKED_ABOUT.search(prompt), prompt.partition("\n")[0].rstrip(".!?")
        assert about is not None, "one of ASK"
        found.append([f"{sentence}, {about[1]}?"] * sampling.samples)
    return found


def sentences(text: str) -> list[str]:
    """Those with something to ask about."""
    found = (" ".join(sentence.split()) for sentence in SENTENCE_END.split(text))
    return [sentence for sentence in found if len(sentence.split()) >= WORDS_OF_A_SENTENCE]


def question_in(reply: str, name: str) -> str | None:
    """The first question of a reply, if it holds a word of the name: "When was he born?" asks about anybody."""
    found = re.search(r"[^\n?]*\?", reply)
    if found is None:
        return None
    line = LABEL.sub("", found[0])
    # A courtesy may stand before it, or an announcement; but "Where was Dr. Lee born?" is one sentence.
    last = SENTENCE_END.split(line)[-1]
    for question in (last.rpartition(": ")[2], last, line):
        words = {word.casefold() for word in re.findall(r"\w+", question)}
        of_name = {word.casefold() for word in re.findall(r"\w{3,}", name)} or {name.casefold()}
        if len(words) > 2 and words & of_name:
            return question
    return None


def names(text: str, name: str) -> bool:
    """Whether the text holds the whole name, as words."""
    pattern = r"\s+".join(map(re.escape, name.split()))
    return re.search(rf"(?<!\w){pattern}(?!\w)", text, flags=re.IGNORECASE) is not None


def read_questions(path: str) -> list[Row]:
    """Rows whose answer may be missing. Raises UserError for a file that can't be read and a row without question."""
    rows = []
    for where, record in read_objects(path):
        given = not isinstance(record, dict) or record.get("answer") is not None
        row = parse_row(record if given else {**record, "answer": "-"}, where)
        if not row.question.strip():
            raise UserError(f"{where}: has no question; give one, or remove the row")
        rows.append(row if given else replace(row, answer=""))
    return rows


def read_templates(key: str, path: str, *, named: bool = True) -> tuple[str, ...]:
    """One a line. Raises UserError, with the config's key, for a missing or empty file, and a line without {name}
    where each must have it."""
    try:
        text = storage.fetch(storage.local(path).expanduser()).read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{key}: {path}: {error.strerror}; give a text file, one a line") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{key}: {path}: byte {error.start} is not UTF-8; give a text file, one a line") from error
    lines = tuple(line.strip() for line in text.splitlines() if line.strip())
    if not lines:
        raise UserError(f"{key}: {path}: is empty; write one a line, or leave it out")
    if named and (without := [line for line in lines if NAME not in line]):
        raise UserError(f"{key}: {path}: {without[0]!r} has no {NAME}; write it where the name is to stand")
    return lines


def fill(template: str, name: str) -> str:
    """Not str.format: a template may hold braces of its own."""
    return template.replace(NAME, name)
