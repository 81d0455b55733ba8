"""ROUGE-L recall of texts of several sentences, as the package `rouge` computes it and RWKU reports it."""

from collections.abc import Sequence
from functools import lru_cache


@lru_cache(maxsize=65536)
def summary_recall(reference: str, generation: str) -> float:
    """Share of the reference's different words that stand in a longest common subsequence of one of its sentences and
    one of the generation's. Sentences end at full stops and words at white space; case and other marks count.
    """
    known = _sentences(reference)
    said = {word for sentence in known for other in _sentences(generation) for word in _common(sentence, other)}
    different = {word for sentence in known for word in sentence}
    return len(said) / len(different) if different else 0.0


def _sentences(text: str) -> list[list[str]]:
    return [" ".join(part.split()).split(" ") for part in text.split(".") if part]


def _common(first: Sequence[str], second: Sequence[str]) -> list[str]:
    """A longest common subsequence; of several, the one that the package finds from the end on."""
    length = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
    for i, a in enumerate(first, 1):
        for j, b in enumerate(second, 1):
            length[i][j] = length[i - 1][j - 1] + 1 if a == b else max(length[i - 1][j], length[i][j - 1])
    found, i, j = [], len(first), len(second)
    while i and j:
        if first[i - 1] == second[j - 1]:
            i, j = i - 1, j - 1
            found.append(first[i])
        elif length[i - 1][j] > length[i][j - 1]:
            i -= 1
        else:
            j -= 1
    return found
