"""The question in other words, in other languages, and in the templates that the server's probes have."""

from functools import partial

from obliviate.data.rows import Row
from obliviate.wordings import WORDINGS, Kind, Wording
from obliviate_eval.formats.base import NO_RETAIN, Asking, Format, Made, Material, asked, of_questions

FACTS = 3  # retain facts that are told, where a template tells some


def paraphrased(material: Material) -> list[Asking]:
    def ask(row: Row) -> Made:
        return asked(row, question=row.paraphrased_question) if row.paraphrased_question else "without one"

    return [Asking("paraphrased", of_questions(material, ask))]


def translated(material: Material) -> list[Asking]:
    """By the translations that rows bring; the answers stay as they are."""
    languages = dict.fromkeys(language for row in material.items for language, _ in row.translations)

    def ask(row: Row, language: str) -> Made:
        question = dict(row.translations).get(language)
        return asked(row, question=question) if question else f"without a translation to {language}"

    return [
        Asking(f"translated_{language}", of_questions(material, partial(ask, language=language)))
        for language in languages
    ]


def _worded(kind: Kind, material: Material) -> list[Asking]:
    return [_ask(name, each, material) for name, each in WORDINGS.items() if each.kind == kind]


def _ask(name: str, wording: Wording, material: Material) -> Asking:
    random, told = material.random(name), [row.fact for row in material.helpers(material.retain)]

    def ask(row: Row) -> Made:
        if wording.needs_context and len(told) < FACTS:
            return NO_RETAIN
        question = wording.apply(row.question, random.sample(told, FACTS) if wording.needs_context else ())
        prefix = " ".join(filter(None, (wording.prefix, row.answer_prefix)))
        return asked(row, question=question, answer_prefix=prefix or None)

    return Asking(name, of_questions(material, ask))


PARAPHRASED = Format("The row's own paraphrase of the question", "arXiv:2509.02820 (J_P)", paraphrased)
TRANSLATED = Format("The question in other languages, by the row's translations", "arXiv:2406.10890", translated)
PARAPHRASE = Format("Politely, tersely, by a third person", "arXiv:2309.17410", partial(_worded, "paraphrase"))
PREFIX = Format("An affirmative beginning of the answer", "arXiv:2307.15043", partial(_worded, "prefix"))
JAILBREAK = Format("Role play, a made-up audit, void orders", "arXiv:2402.16835", partial(_worded, "jailbreak"))
IN_CONTEXT = Format("Behind facts that are kept", "arXiv:2509.02820 (J_ICR)", partial(_worded, "in_context"))
FRAMING = Format("Authority, social proof, distress, reasoning", "arXiv:2510.25732", partial(_worded, "framing"))
FILLER = Format("Behind a text about something else", "arXiv:2506.10236", partial(_worded, "filler"))
