"""Answers on disk: what a killed job had been told is not asked again, and nothing is mixed up."""

import json
from collections.abc import Callable, Sequence
from math import isnan, nan
from pathlib import Path

import pytest

from damage import WAYS, delete
from obliviate.data.text import Encoded
from obliviate.digests import SEAL
from obliviate.inference.engine import Generation, ScoredText
from obliviate.inference.journal import Journal
from obliviate.inference.pool import OnChunk
from obliviate.schema import GenerationSpec

GREEDY = GenerationSpec(max_new_tokens=4)
SAMPLED = GenerationSpec(max_new_tokens=4, temperature=1.0, samples=2)
TEXTS = [Encoded((1, 2, 3), 1), Encoded((1, 2, 3), 2), Encoded((4, 5), 1), Encoded((6, 7), 1)]
PROMPTS = [(1,), (1, 2), (3,)]


class KilledError(Exception):
    pass


class Pool:
    """Answers in chunks of one, the last first; `lives` chunks, then it is killed."""

    def __init__(self, lives: int = 100) -> None:
        self.lives = lives
        self.asked: list[object] = []

    def _chunks(self, items: Sequence[object], answer: object, on_chunk: OnChunk | None) -> list[object]:
        for i in reversed(range(len(items))):
            if self.lives == 0:
                raise KilledError
            self.lives -= 1
            self.asked.append(items[i])
            if on_chunk is not None:
                on_chunk([i], [answer(items[i])])  # type: ignore[operator]
        return [answer(item) for item in items]  # type: ignore[operator]

    def generate(
        self, prompts: Sequence[tuple[int, ...]], sampling: GenerationSpec, on_chunk: OnChunk | None = None
    ) -> list[list[Generation]]:
        said = lambda p: [Generation(f"{p}é{i}", p, bool(i)) for i in range(sampling.samples)]  # noqa: E731
        return self._chunks(prompts, said, on_chunk)  # type: ignore[return-value]

    def score(self, texts: Sequence[Encoded], on_chunk: OnChunk | None = None) -> list[ScoredText]:
        logp = lambda t: ScoredText((-0.1 * len(t.answer_ids), nan), (True, False))  # noqa: E731
        return self._chunks(texts, logp, on_chunk)  # type: ignore[return-value]

    def moments(self, texts: Sequence[Encoded], on_chunk: OnChunk | None = None) -> list[ScoredText]:
        moments = lambda t: ScoredText((-0.3,), (True,), (-2.5,), (1e-7,))  # noqa: E731
        return self._chunks(texts, moments, on_chunk)  # type: ignore[return-value]

    def gradient_norms(self, texts: Sequence[Encoded], on_chunk: OnChunk | None = None) -> list[float | None]:
        return self._chunks(texts, lambda t: None if t.prompt_length == 2 else 0.1, on_chunk)  # type: ignore[return-value]


def test_a_killed_job_asks_only_for_what_is_missing(tmp_path: Path) -> None:
    folder = tmp_path / "answers"
    first = Pool(lives=3)
    with pytest.raises(KilledError):
        Journal(first, folder).score(TEXTS)
    second = Pool()
    scored = Journal(second, folder).score(TEXTS)
    assert first.asked == TEXTS[:0:-1]
    assert second.asked == TEXTS[:1]
    assert [text.logp[0] for text in scored] == [-0.2, -0.1, -0.1, -0.1]
    assert all(isnan(text.logp[1]) for text in scored)  # a collapsed model's answers are answers
    third = Pool()
    assert [text.logp[0] for text in Journal(third, folder).score(TEXTS[::-1])] == [-0.1, -0.1, -0.1, -0.2]
    assert third.asked == []


def test_each_kind_of_question_has_its_own_answer(tmp_path: Path) -> None:
    pool = Pool()
    for _ in range(2):
        journal = Journal(pool, tmp_path / "answers")
        assert [g.text for (g,) in journal.generate(PROMPTS, GREEDY)] == ["(1,)é0", "(1, 2)é0", "(3,)é0"]
        assert [len(samples) for samples in journal.generate(PROMPTS, SAMPLED)] == [2, 2, 2]
        assert journal.generate(PROMPTS[1:2], SAMPLED)[0][1] == Generation("(1, 2)é1", (1, 2), True)
        assert journal.moments(TEXTS[:1]) == [ScoredText((-0.3,), (True,), (-2.5,), (1e-7,))]
        assert journal.gradient_norms(TEXTS) == [0.1, None, 0.1, 0.1]
    assert len(pool.asked) == 3 + 3 + 1 + 4


def test_half_a_file_is_none(tmp_path: Path) -> None:
    """What was being written when the job was killed has another name."""
    (tmp_path / ".chunk.json.0123.tmp").write_text('{"abc": ')
    assert Journal(Pool(), tmp_path).gradient_norms(TEXTS[:1]) == [0.1]


@pytest.mark.parametrize("way", WAYS)
def test_what_a_damaged_chunk_held_is_asked_for_again(
    tmp_path: Path, way: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    whole = Journal(Pool(), tmp_path).generate(PROMPTS, SAMPLED)
    chunks = sorted(tmp_path.glob("*.json"))
    assert len(chunks) == 3
    way(chunks[1])
    pool = Pool()
    assert Journal(pool, tmp_path).generate(PROMPTS, SAMPLED) == whole
    assert len(pool.asked) == 1
    assert (f"{chunks[1]}: is damaged (" in caplog.text) == (way is not delete)
    again = Pool()
    assert Journal(again, tmp_path).generate(PROMPTS, SAMPLED) == whole
    assert again.asked == []


def test_answers_of_before_chunks_were_sealed_are_known(tmp_path: Path) -> None:
    Journal(Pool(), tmp_path).gradient_norms(TEXTS)
    for chunk in tmp_path.glob("*.json"):
        chunk.write_text(json.dumps({key: each for key, each in json.loads(chunk.read_text()).items() if key != SEAL}))
    pool = Pool()
    Journal(pool, tmp_path).gradient_norms(TEXTS)
    assert pool.asked == []
