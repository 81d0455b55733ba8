"""MUSE: news articles and books to forget (Shi et al. 2024, arXiv:2407.06460)."""

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field

from obliviate.data.base import Data
from obliviate.data.hub import load_objects, text_of
from obliviate.data.rows import Corpus, EvaluationSet, Role, Row, without_overlap


class MuseData(Data):
    """MUSE-News or MUSE-Books, from the hub or from a local folder with the same subsets and splits.

    Texts to train on are cut into pieces, so that none is lost at `model.max_length`. Questions come after the examples
    that MUSE puts before them, and nothing else is laid out: set `model.chat_template: raw`. The texts of the forget
    and holdout sets are long: raise `model.max_length` and `engine.max_model_len` to 2048 to measure them whole.
    """

    type: Literal["muse"] = "muse"
    source: str = "muse-bench/MUSE-News"  # hub id or local folder
    retain_split: str = "retain1"  # of the subset raw: what to train on beside the forget set
    chunk_words: int = Field(default=300, ge=20)  # of a text to train on
    eval_limit: int | None = Field(default=None, ge=1)  # rows measured of each set, from its beginning

    def load(self) -> Corpus:
        """Raises UserError for a missing file, or where the hub does not answer."""
        forget = tuple(self._pieces("forget"))
        retain, warnings = without_overlap(forget, tuple(self._pieces(self.retain_split)))
        sets = (
            ("verbatim", Role.FORGET, tuple(self._rows("verbmem", "forget", "prompt", "gt"))),
            ("knowledge_forget", Role.FORGET, tuple(self._questions("forget_qa"))),
            ("knowledge_retain", Role.RETAIN, tuple(self._questions("retain_qa"))),
            ("forget", Role.FORGET, tuple(Row("", text) for text in self._texts("privleak", "forget"))),
            ("holdout", Role.HOLDOUT, tuple(Row("", text) for text in self._texts("privleak", "holdout"))),
        )
        limited = tuple(EvaluationSet(name, role, rows[: self.eval_limit]) for name, role, rows in sets)
        return Corpus(forget, retain, limited, warnings)

    def _pieces(self, split: str) -> Iterator[Row]:
        for text in self._texts("raw", split):
            words = text.split()
            for start in range(0, len(words), self.chunk_words):
                yield Row("", " ".join(words[start : start + self.chunk_words]))

    def _questions(self, split: str) -> Iterator[Row]:
        """Each behind the examples; the answer of the last question is left to the model, behind a space."""
        examples = [f"{_asked(row.question)} {row.answer}\n\n" for row in self._qa(f"{split}_icl")]
        return (Row("".join([*examples, _asked(row.question), " "]), row.answer) for row in self._qa(split))

    def _qa(self, split: str) -> Iterator[Row]:
        return self._rows("knowmem", split, "question", "answer")

    def _rows(self, subset: str, split: str, question: str, answer: str) -> Iterator[Row]:
        for where, row in self._objects(subset, split):
            yield Row(text_of(row, question, where), text_of(row, answer, where))

    def _texts(self, subset: str, split: str) -> list[str]:
        return [text_of(row, "text", where) for where, row in self._objects(subset, split)]

    def _objects(self, subset: str, split: str) -> list[tuple[str, Any]]:
        return load_objects(self.source, subset, split)


def _asked(question: str) -> str:
    return f"Question: {question}\nAnswer:"
