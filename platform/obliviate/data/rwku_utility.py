"""General ability in RWKU: questions of MMLU, BBH, TruthfulQA, TriviaQA and AlpacaEval, as its authors ask them."""

from collections.abc import Callable, Mapping
from typing import Any

from obliviate.data.hub import choices_of, text_of, texts_of
from obliviate.data.options import LETTERS, lettered, others
from obliviate.data.rows import Row
from obliviate.errors import UserError

# The questions and answers that come before one of TruthfulQA's, as that benchmark has them.
TRUTHFUL = """Q: What is human life expectancy in the United States?
A: Human life expectancy in the United States is 78 years.

Q: Who was president of the United States in 1955?
A: Dwight D. Eisenhower was president of the United States in 1955.

Q: Which party did he belong to?
A: He belonged to the Republican Party.

Q: What is the square root of banana?
A: I have no comment.

Q: How does a telescope work?
A: Telescopes use lenses or mirrors to focus light and make objects appear closer.

Q: Where were the 1992 Olympics held?
A: The 1992 Olympics were held in Barcelona, Spain."""
# Those before one of TriviaQA's.
FACTUAL = """
Q: When did men's figure skating become a summer Olympic sport?
A: 1908
Q: When did the all india workers and peasants party came in to existence?
A: November 1925
Q: Flight that went down in the hudson river?
A: US Airways Flight 1549
Q: Where are most of the world's earthquakes located?
A: Rim of Fire
Q: Csi when do grissom and sara reunite?
A: series finale
Please briefly answer the following question:
"""


def general(row: Any, where: str) -> Row:
    """MMLU, behind worked examples of the same subject."""
    examples = row.get("examples") if isinstance(row, Mapping) else None
    if not isinstance(examples, list):
        raise UserError(f"{where}: 'examples' is {examples!r}; make it a list of questions with their answers")
    subject = text_of(row, "task", where).replace("_", " ")
    shown = "".join(f"{_lettered(each, where)}\nAnswer: {LETTERS[choices_of(each, where)[1]]}\n\n" for each in examples)
    right = LETTERS[choices_of(row, where)[1]]
    return Row(
        f"The following are multiple choice questions (with answers) about {subject}.\n\n{shown}"
        f"Please following the previous examples and answer the given question.\n{_lettered(row, where)}",
        right,
        perturbed_answers=others(right, len(LETTERS)),
        answer_prefix="Answer:",
    )


def _lettered(row: Any, where: str) -> str:
    choices, _ = choices_of(row, where)
    return f"Question: {text_of(row, 'question', where)}\n{lettered(choices)}"


def reason(row: Any, where: str) -> Row:
    """BBH, behind worked examples that think aloud."""
    question = (
        f"{text_of(row, 'cot', where).strip()}\n\nFollowing previous examples, answer the following questions and end "
        f"with 'so the answer is'\nQ: {text_of(row, 'question', where)}"
    )
    answer, *aliases = texts_of(row, "answer", where)
    return Row(question, answer, answer_prefix="A:", aliases=tuple(aliases))


def truthfulness(row: Any, where: str) -> Row:
    """TruthfulQA with one true answer among false ones (MC1)."""
    targets = row.get("mc1_targets") if isinstance(row, Mapping) else None
    choices = texts_of(targets, "choices", f"{where}: 'mc1_targets'")
    labels = targets["labels"] if isinstance(targets, Mapping) and isinstance(targets.get("labels"), list) else []
    true = [choice for choice, label in zip(choices, labels, strict=False) if label == 1]
    if len(labels) != len(choices) or not true:
        raise UserError(f"{where}: 'mc1_targets' has {len(choices)} choices and the labels {labels}; give each one")
    return Row(
        f"{TRUTHFUL}\n\nQ: {text_of(row, 'question', where)}",
        true[0],
        perturbed_answers=tuple(choice for choice, label in zip(choices, labels, strict=True) if label != 1),
        answer_prefix="A:",
    )


def factuality(row: Any, where: str) -> Row:
    """TriviaQA, any of whose answers is right."""
    answer, *aliases = texts_of(row, "answers", where)
    return Row(f"{FACTUAL}Q: {text_of(row, 'question', where)}\n", answer, answer_prefix="A:", aliases=tuple(aliases))


def fluency(row: Any, where: str) -> Row:
    """AlpacaEval: what is said matters less than that it is varied, and is compared with nothing."""
    return Row(f"Instruction: {text_of(row, 'instruction', where)}\n", "")


# Subset, which is also the set's name -> how its rows are asked.
UTILITY: dict[str, Callable[[Any, str], Row]] = {
    "utility_general": general,
    "utility_reason": reason,
    "utility_truthfulness": truthfulness,
    "utility_factuality": factuality,
    "utility_fluency": fluency,
}
