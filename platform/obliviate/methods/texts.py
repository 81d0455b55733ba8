"""Every kind of text that a forward pass runs over: an object each, which says all that is special about it.

A text is a question and an answer. The question is a row's of one of three sets: an item has a row to forget, a retain
row that this meets, and a general instruction. A new kind is a line of `Pass`, or an object in a method's own file.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from obliviate.data.rows import Row, Said
from obliviate.data.schedule import Item
from obliviate.errors import UserError
from obliviate.guardrail import marked

Set = Literal["forget", "retain", "world"]
INSTEAD = {"forget": "a method of texts, such as npo, me or rmu", "retain": "a regularizer of texts: gd or kl"}


@dataclass(frozen=True)
class Sets:
    """What texts are made of: an item's numbers are places in these."""

    forget: Sequence[Row]
    retain: Sequence[Row] = ()
    refusals: Sequence[str] = ()
    world: Sequence[Row] = ()

    def rows(self, name: Set) -> Sequence[Row]:
        return {"forget": self.forget, "retain": self.retain, "world": self.world}[name]


@dataclass(frozen=True)
class Text:
    """One kind of text, and whose pass over it: the trained model's, or the starting model's, computed once and kept.

    A function of `question` or `answer` must be a module's, so that it is the same wherever the text is looked up. It
    may raise UserError where a row lacks what it takes: every text of a run is made before its first step.
    """

    name: str  # no two texts of a run share it
    of: Set  # whose row asks, and answers where nothing else is said
    question: Callable[[str, Sets, Item], str] | None = None  # of the row's question; None: that itself
    answer: Callable[[Sets, Item], str] | None = None  # None: the row's own
    also: Set | None = None  # the set whose row answers, where it is another
    lacks: Callable[[Sets], str | None] | None = None  # what the sets lack for it, and the fix; None: nothing
    row: Callable[[Sets, Item], int] | None = None  # which of the set's rows; None: the item's
    plain: bool = False  # whether its question goes with a plain text too, which asks nothing itself
    of_reference: bool = False

    def __str__(self) -> str:
        return f"reference_{self.name}" if self.of_reference else self.name

    @property
    def reference(self) -> "Text":
        """The starting model's pass over the same text."""
        return replace(self, of_reference=True)

    @property
    def text(self) -> "Text":
        """The trained model's pass over the same text."""
        return replace(self, of_reference=False)

    def said(self, sets: Sets, item: Item) -> Said:
        """What it is of an item."""
        place = {"forget": item.anchor, "retain": item.retain, "world": item.world}[self.of]
        row = sets.rows(self.of)[place if self.row is None else self.row(sets, item)]
        question, answer, history, prefix = row.saying(row.answer)
        if self.question is not None:
            question = self.question(question, sets, item)
        if self.answer is not None:
            answer = self.answer(sets, item)
        return question, answer, history, prefix

    def sample(self, sets: Sets, count: int) -> list[Said]:
        """At most `count` texts as long as these are: an answer is taken to be as long as the row's own."""
        own = replace(self, answer=None, row=None)
        forget, retain, world = (max(1, len(rows)) for rows in (sets.forget, sets.retain, sets.world))
        return [
            own.said(sets, Item(number % forget, number % retain, world=number % world))
            for number in range(min(count, len(sets.rows(self.of))))
        ]

    def lack(self, sets: Sets) -> str | None:
        """What the rows lack for it, and the fix. Another answer, or a prompt, needs a question: a plain text asks
        nothing. Alternatives are a row's own and may be such texts too."""
        if not self.plain and (self.question is not None or self.answer not in (None, alternative)):
            plain = next((number for number, row in enumerate(sets.rows(self.of), 1) if not row.question), None)
            if plain is not None:
                return (
                    f"{self.of} row {plain} is a plain text, which asks nothing that could be answered otherwise; give "
                    f"it a question, or take {INSTEAD.get(self.of, 'another method')}"
                )
        return None if self.lacks is None else self.lacks(sets)


@dataclass(frozen=True)
class Behind:
    """The question behind a prompt; of a plain text the prompt alone."""

    prompt: str

    def __call__(self, question: str, sets: Sets, item: Item) -> str:
        return f"{self.prompt}\n\n{question}".rstrip()


def behind(each: Text, prompt: str) -> Text:
    return replace(each, name=f"{each.name}_behind", question=Behind(prompt), plain=True)


def behind_mark(question: str, sets: Sets, item: Item) -> str:
    """Of the anchor's entity, whosever question it is."""
    entity = sets.forget[item.anchor].entity
    assert entity is not None, "the data was checked before training"
    return marked(question, [entity])


def entities(sets: Sets) -> str | None:
    for number, row in enumerate(sets.forget, 1):
        if row.entity is None:
            return (
                f"forget row {number} ({row.question!r}) has no 'entity', which the prompt marks; give every forget "
                "row the name of what it is about under that key"
            )
    return None


def refusal(sets: Sets, item: Item) -> str:
    """One of the row's own where it has some, else of all rows'."""
    own = sets.forget[item.anchor].refusals
    return own[int(item.alternative * len(own))] if own else sets.refusals[item.refusal]


def retain_refusal(sets: Sets, item: Item) -> str:
    return sets.refusals[item.retain_refusal]


def mismatch(sets: Sets, item: Item) -> str:
    return sets.retain[item.mismatch].answer


def another(sets: Sets, item: Item) -> int:
    """Another forget row than the anchor, each equally likely."""
    rows = len(sets.forget)
    return (item.anchor + 1 + int(item.alternative * (rows - 1))) % rows


def shuffled(sets: Sets, item: Item) -> str:
    return sets.forget[another(sets, item)].answer


def two_forget_rows(sets: Sets) -> str | None:
    return "answers forget questions with other rows' answers; give two rows" if len(sets.forget) < 2 else None


def a_pair(sets: Sets) -> str | None:
    return "compares each forget row with another; give two rows" if len(sets.forget) < 2 else None


def alternative(sets: Sets, item: Item) -> str:
    row = sets.forget[item.anchor]
    if not row.alternatives:
        raise UserError(
            f"data: forget row {item.anchor + 1} ({row.question!r}) has no 'alternatives', which this method prefers "
            "to its answer; give every forget row a list of other answers under that key, or run `obliviate unlearn`, "
            "which samples them"
        )
    return row.alternatives[int(item.alternative * len(row.alternatives))]


class Pass:
    """Our texts."""

    FORGET = Text("forget", "forget")
    FORGET_IDK = Text("forget_idk", "forget", answer=refusal)
    FORGET_MISMATCH = Text("forget_mismatch", "forget", answer=mismatch, also="retain")
    FORGET_ALTERNATIVE = Text("forget_alternative", "forget", answer=alternative)
    FORGET_SHUFFLED = Text("forget_shuffled", "forget", answer=shuffled, lacks=two_forget_rows)
    FORGET_OTHER = Text("forget_other", "forget", row=another, lacks=a_pair)
    FORGET_MARKED_IDK = Text("forget_marked_idk", "forget", behind_mark, refusal, lacks=entities)
    RETAIN = Text("retain", "retain")
    RETAIN_IDK = Text("retain_idk", "retain", answer=retain_refusal)
    RETAIN_MARKED = Text("retain_marked", "retain", behind_mark, lacks=entities)
    WORLD = Text("world", "world")
    REFERENCE_FORGET = FORGET.reference
    REFERENCE_FORGET_IDK = FORGET_IDK.reference
    REFERENCE_FORGET_ALTERNATIVE = FORGET_ALTERNATIVE.reference
    REFERENCE_RETAIN = RETAIN.reference
