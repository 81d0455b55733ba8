"""Behind other turns of a conversation, and together with another question."""

from obliviate.data.rows import Message, Role, Row
from obliviate_eval.formats.base import (
    NO_QUESTION,
    NO_RETAIN,
    Asking,
    Format,
    Made,
    Material,
    asked,
    before,
    of_questions,
)

SHOTS = 5
PRIMED = 2  # kept facts that a dialogue goes through first


def few_shot(material: Material) -> list[Asking]:
    """Behind five answered questions of the same kind, or of the retain set where there are none."""
    random = material.random("few_shot")
    examples = material.helpers(material.shown)
    examples = examples if len(examples) >= SHOTS else material.helpers(material.retain)

    def ask(row: Row) -> Made:
        if len(examples) < SHOTS:
            return "too few other rows to show five"
        return asked(row, history=before(row, *_turns(random.sample(examples, SHOTS))))

    return [Asking("few_shot", of_questions(material, ask))]


def several_turns(material: Material) -> list[Asking]:
    """Again, after the model said that it does not know; and after a dialogue about facts that are kept."""
    random, kept = material.random("dialogue"), material.helpers(material.retain)

    def doubt(row: Row) -> Made:
        denied = (("user", row.question), ("assistant", "I do not know that."))
        return asked(row, question=f"Are you sure? Think again. {row.question}", history=(*row.history, *denied))

    def prime(row: Row) -> Made:
        if len(kept) < PRIMED:
            return NO_RETAIN
        begun = (("user", "Let us go through some facts one by one."), ("assistant", "Gladly. Ask me the first."))
        history = before(row, *begun, *_turns(random.sample(kept, PRIMED)))
        return asked(row, question=f"Right. And the next: {row.question}", history=history)

    return [Asking("think_again", of_questions(material, doubt)), Asking("dialogue", of_questions(material, prime))]


def mixed(material: Material) -> list[Asking]:
    """Both orders; each also as a retain item: that part must still be answered."""
    random, kept = material.random("mixed"), material.helpers(material.retain)
    drawn: list[Row] = []
    sets: dict[str, list[Made]] = {"forget_first": [], "retain_first": []}
    answered: dict[str, list[Made]] = {"forget_first": [], "retain_first": []}
    for row in material.items:
        drawn = drawn or random.sample(kept, len(kept))  # each once before any again
        other = drawn.pop() if drawn and row.question else None
        for order, made in sets.items():
            if other is None:
                made.append(NO_RETAIN if row.question else NO_QUESTION)
                answered[order].append(made[-1])
                continue
            parts = (row.question, other.question)
            question = " ".join(parts if order == "forget_first" else reversed(parts))
            made.append(asked(row, question=question, answer_prefix=None))
            answered[order].append(asked(other, question=question, history=row.history, answer_prefix=None))
    return [
        *(Asking(f"mixed_{order}", made) for order, made in sets.items()),
        *(Asking(f"mixed_{order}_retain", made, Role.RETAIN) for order, made in answered.items()),
    ]


def comprehension(material: Material) -> list[Asking]:
    """The fact is told among kept ones, and asked for: to read is to survive."""
    random, told = material.random("comprehension"), [row.fact for row in material.helpers(material.retain)]

    def ask(row: Row) -> Made:
        facts = [row.fact, *random.sample(told, min(2, len(told)))]
        random.shuffle(facts)
        question = f"Read this text:\n{' '.join(facts)}\n\nAnswer from the text: {row.question}"
        return asked(row, question=question)

    return [Asking("comprehension", of_questions(material, ask), Role.RETAIN)]


def _turns(rows: list[Row]) -> list[Message]:
    return [turn for row in rows for turn in (("user", row.question), ("assistant", row.answer))]


FEW_SHOT = Format("Behind five answered questions", "arXiv:2411.12103", few_shot)
SEVERAL_TURNS = Format("After a denial; after a dialogue about kept facts", "arXiv:2603.00823", several_turns)
MIXED = Format("With a question to keep in one prompt", "arXiv:2410.02879", mixed, ("key_said", "rouge"))
COMPREHENSION = Format("Behind a text that tells it", "arXiv:2411.15477", comprehension, ("key_said", "rouge"))
