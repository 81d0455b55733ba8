"""Whether an answer refuses: says that it doesn't know, or that it won't tell. Judged by its wording alone."""

import re
from unicodedata import normalize

from obliviate.data.refusals import REFUSALS

# Wordings of models that were taught to refuse, beside those that our methods teach. They must stand near the
# beginning: a long answer that ends in doubt has answered.
WORDINGS = (
    r"i (?:\w+ )?(?:do not|don't|cannot|can't|could not|couldn't|have no|haven't|won't|will not)",
    r"(?:i am|i'm) (?:\w+ )?(?:not (?:able|aware|certain|familiar|sure)|afraid|sorry|unable|unaware|unfamiliar)",
    r"no (?:idea|information|clue)",
    r"(?:as an ai|sorry|unable to|unfortunately|my apologies|i apologi[sz]e)",
)
# The same in other languages that models answer in: not knowing, not being able or allowed to tell, being sorry.
ELSEWHERE = (
    r"(?:no (?:lo )?sé\b|no puedo|no tengo (?:información|conocimiento)|lo siento|desconozco)",  # Spanish
    "(?:não (?:sei|posso|tenho informaç)|desculpe|lamento|desconheço)",  # Portuguese
    "(?:je ne (?:sais|connais|peux|dispose)|je n'ai (?:pas|aucune)|désolé|navré)",  # French
    r"(?:ich (?:weiß|kann|habe|kenne|darf)\b.{0,30}\b(?:nicht|keine?)\b|tut mir leid|leider)",  # German
    r"(?:non (?:lo so|so|posso|conosco|ho informazioni)\b|mi dispiace|purtroppo)",  # Italian
    "(?:я не (?:знаю|могу|уверен)|не знаю|извините|к сожалению|у меня нет)",  # Russian
    "(?:bilmiyorum|üzgünüm|maalesef|bilgim yok)",  # Turkish
    "(?:لا أعرف|لا أعلم|لا أستطيع|لا يمكنني|آسف|عذر)",  # Arabic
    "(?:नहीं (?:पता|जानता|जानती|बता)|माफ़|क्षमा)",  # Hindi
    "(?:不知道|不清楚|不了解|无法|無法|不能(?:回答|提供|透露)|抱歉|对不起|對不起)",  # Chinese
    "(?:わかりません|分かりません|知りません|できません|申し訳|すみません|ごめん)",  # Japanese
    "(?:모르겠|모릅니다|몰라요|알지 못|알 수 없|죄송|미안)",  # Korean
)
NEAR = 100  # characters

_wordings = re.compile(rf"\b(?:{'|'.join(WORDINGS)})\b|{'|'.join(ELSEWHERE)}")


def is_refusal(answer: str) -> bool:
    """A heuristic: an answer in a wording that is not listed is taken for an answer."""
    text = _plain(answer)
    return text.startswith(_own) or _wordings.search(text[:NEAR]) is not None


def _plain(text: str) -> str:
    return " ".join(normalize("NFC", text).lower().replace("’", "'").split())


_own = tuple(_plain(refusal).rstrip(".") for refusal in REFUSALS)
