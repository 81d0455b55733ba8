"""What a model writes before its answer, for itself: told apart by the marks that its chat template knows."""

# Opening and closing, as families write them: Qwen3, DeepSeek-R1 and most others; Magistral; Seed-OSS; Cohere; MiniMax;
# gpt-oss, whose answer is another channel; Gemma 4.
MARKS = (
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<mm:think>", "</mm:think>"),
    ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),
    ("<|channel>", "<channel|>"),
)


def marks_of(template: str) -> tuple[tuple[str, str], ...]:
    """Those of which the template writes or looks for one. Of gpt-oss the message's mark is written apart."""
    return tuple(pair for pair in MARKS if any(mark.removesuffix("<|message|>") in template for mark in pair))


def split(text: str, marks: tuple[tuple[str, str], ...]) -> tuple[str, str | None]:
    """The thinking with its marks, and the answer behind it: None where the text ends inside the thinking."""
    for opening, closing in marks:
        if closing in text:
            thinking, _, answer = text.partition(closing)
            return thinking + closing, answer
        if text.lstrip().startswith(opening):
            return text, None
    return "", text
