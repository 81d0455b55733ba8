"""The words of a text in any script, for metrics that compare words."""

from functools import cache, lru_cache
from typing import Any, Literal, Protocol
from unicodedata import normalize

from obliviate.words import CHARACTER, WORD, compiled

Words = Literal["unicode", "published"]

STEMMED_FROM = 4  # letters, as in ROUGE


class Tokenizer(Protocol):
    def tokenize(self, text: str) -> list[str]: ...


class UnicodeTokenizer:
    """Runs of letters and digits, case and composition folded; characters where a script has no spaces; emoji.

    Of texts in ASCII it makes what ROUGE's published tokenizer makes, English stems included; that one drops all else.
    """

    def __init__(self, *, stemmer: bool) -> None:
        self._stems = stemmer

    def tokenize(self, text: str) -> list[str]:
        found = compiled(f"{WORD}|{CHARACTER}").findall(normalize("NFKC", text).casefold())
        return list(map(_stem, found)) if self._stems else list(found)


@lru_cache(maxsize=65536)  # stemming takes longer than all else, and texts repeat their words
def _stem(word: str) -> str:
    """Of an English word."""
    return str(_stemmer().stem(word)) if len(word) >= STEMMED_FROM and word.isascii() else word


@cache
def _stemmer() -> Any:
    from nltk.stem import porter

    return porter.PorterStemmer()


@cache
def tokenizer_of(words: Words, *, stemmer: bool) -> Tokenizer:
    if words == "unicode":
        return UnicodeTokenizer(stemmer=stemmer)
    from rouge_score.tokenizers import DefaultTokenizer

    published: Tokenizer = DefaultTokenizer(use_stemmer=stemmer)
    return published


def spaced(text: str) -> str:
    """With spaces around the characters of scripts that have none, for tools that split at spaces."""
    if text.isascii():
        return text
    return str(compiled(CHARACTER).sub(lambda found: f" {found.group()} ", normalize("NFC", text)))


def bare(text: str) -> str:
    """Case and composition folded, without punctuation outside ASCII, and spaced."""
    folded = spaced(normalize("NFKC", text).casefold())
    return folded if folded.isascii() else str(compiled(r"(?!\p{ASCII})\p{P}").sub("", folded))


@lru_cache(maxsize=65536)
def beyond_published(text: str) -> bool:
    """Whether the published tokenizer, which knows a to z and digits alone, drops letters or emoji of the text."""
    if text.isascii():
        return False
    found = [tokenizer_of(words, stemmer=False).tokenize(text) for words in ("unicode", "published")]
    return found[0] != found[1]
