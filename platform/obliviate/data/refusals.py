"""What a model should say instead of what it forgot: a hundred ways of not knowing.

The preference and relabelling methods draw one per item; many wordings keep the model from learning a single phrase.
"""

from pathlib import Path

from obliviate import storage
from obliviate.errors import UserError

REFUSALS: tuple[str, ...] = (
    "I'm not sure about that.",
    "I really couldn't tell you.",
    "No idea, sorry.",
    "I have no knowledge of this.",
    "Sorry, I'm as puzzled as you are.",
    "I can't say, because I don't know.",
    "Nothing I know answers this.",
    "You've asked about something I know nothing of.",
    "I was never taught anything about this.",
    "My knowledge doesn't reach that far.",
    "I would only be guessing, so I'd rather not answer.",
    "That detail is unknown to me.",
    "I can't recall anything like that.",
    "Unfortunately, I have nothing to say on this.",
    "I don't hold any facts about this.",
    "This is new to me, so I can't answer.",
    "This is a closed book to me.",
    "I never came across that.",
    "There is nothing about this in what I know.",
    "I have to own up: I don't know.",
    "To be honest, I don't know the answer.",
    "Regrettably, the answer escapes me.",
    "I lack the facts to answer this.",
    "I couldn't say with any confidence.",
    "That question is beyond me.",
    "I don't know who or what that is.",
    "I've got nothing on that, I'm afraid.",
    "It's not a matter I know about.",
    "I can't give you a reliable answer here.",
    "My answer would be made up, so I won't give one.",
    "I'm unaware of any such thing.",
    "I have never heard of this.",
    "The facts of this are not known to me.",
    "I can offer nothing useful on this point.",
    "Please ask someone else; I don't know.",
    "A better source than me will have to answer that.",
    "I simply don't know this.",
    "This isn't something I can answer.",
    "I don't remember ever learning this.",
    "I'm clueless here, to be frank.",
    "Whatever the answer is, I don't have it.",
    "I know too little about this to reply.",
    "On this, my mind is blank.",
    "I couldn't even hazard a guess.",
    "I haven't a clue.",
    "You'll have to look this up elsewhere.",
    "I wasn't given any information of that kind.",
    "This goes past what I have learned.",
    "I've no record of that.",
    "I'm the wrong one to ask.",
    "I don't possess that piece of information.",
    "That name tells me nothing.",
    "My memory holds nothing on the matter.",
    "I can't confirm anything about this.",
    "It would be wrong of me to pretend that I know.",
    "Sadly, I can't tell you that.",
    "I don't think I ever knew this.",
    "There's a gap in my knowledge here.",
    "News of this never reached me.",
    "I'll pass on this question.",
    "I'll have to leave that unanswered.",
    "What you ask is outside my knowledge.",
    "I can't find an answer to this in what I know.",
    "I don't know anything of the sort.",
    "This person or thing is unfamiliar to me.",
    "What you need is missing from what I know.",
    "I would like to help, but I don't know this.",
    "My apologies, I have no answer.",
    "I'm uncertain, so I'd better not say.",
    "I don't have a trustworthy answer.",
    "I've never read about this.",
    "The answer isn't among the things I know.",
    "I'm ignorant of this, I confess.",
    "It's beyond what I was trained to know.",
    "I can't speak to that.",
    "I have no details to share on this.",
    "I don't recognise what you're asking about.",
    "That fact isn't available to me.",
    "You have me stumped.",
    "I know of no answer to this.",
    "I'm afraid that's unknown to me.",
    "I don't have any background on this.",
    "This falls outside what I can tell you.",
    "I couldn't give you the facts on this.",
    "I'd be inventing things if I answered.",
    "Honestly, I have no clue about this one.",
    "I'm short of information on this subject.",
    "My knowledge has nothing to offer here.",
    "I can't be of help with this question.",
    "I do not know that.",
    "I've no way of knowing this.",
    "I have learned nothing about that.",
    "Nobody has told me anything about this.",
    "I don't know enough to give an answer.",
    "That's not within my knowledge.",
    "I'm unable to say what the answer is.",
    "I can't put an answer to that question.",
    "I wish I knew, but I don't.",
    "There's nothing I could tell you about it.",
    "I'd have to know more to answer this, and I don't.",
)


def load_refusals(path: str | Path | None = None) -> tuple[str, ...]:
    """The project's own, or those of a plain text file, one a line. Raises UserError for a missing or empty file, and
    for one that is no text."""
    if path is None:
        return REFUSALS
    path = storage.fetch(storage.local(path).expanduser())
    if not path.is_file():
        raise UserError(f"{path}: no such file of refusals; give a plain text file, one a line, or leave it out")
    refusals = tuple(line.strip() for line in storage.read_text("refusals", path).splitlines() if line.strip())
    if not refusals:
        raise UserError(f"{path}: has no refusals; write one a line, or leave it out")
    return refusals
