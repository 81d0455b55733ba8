"""What ELM's target is made of: the starting model's hidden states at the same answer tokens, once with nothing before
the question, once behind a novice's prompt and once behind an expert's.

They are kept side by side for each text, and `SteeredHead` makes one distribution of the three.
"""

from collections.abc import Iterable, Iterator

import torch

from obliviate.data.schedule import Item
from obliviate.errors import UserError
from obliviate.methods import Needs, Positions, Text
from obliviate.methods.texts import behind
from obliviate.scoring import AnyStat, Stat, Steered
from obliviate.train.batch import Texts
from obliviate.train.reference import Reference


def steered_texts(needs: Needs) -> Iterator[tuple[Text, Steered, tuple[Text, Text]]]:
    """Of each pass whose target is steered: the statistic, and its texts behind the two prompts."""
    for each, stats in needs.items():
        for stat in stats:
            if isinstance(stat, Steered):
                yield each, stat, (behind(each, stat.novice), behind(each, stat.expert))


def further_needs(needs: Needs) -> Needs:
    """What the starting model must leave behind besides: the hidden states of these texts."""
    at_answers: dict[AnyStat, Positions] = {Stat.REFERENCE_KL: Positions.ANSWER}
    return {text: at_answers for *_, pair in steered_texts(needs) for text in pair}


def check_alike(texts: Texts, needs: Needs, items: Iterable[Item]) -> None:
    """Raises UserError where an answer is of other tokens behind a prompt. Every worker finds the same."""
    pairs = list(steered_texts(needs))
    for item in items if pairs else ():
        for each, _, others in pairs:
            own = texts[texts.key(each, item)].answer_ids
            for other in others:
                if texts[texts.key(other, item)].answer_ids[-len(own) :] != own:
                    raise UserError(
                        f"model.max_length: forget row {item.anchor + 1} is cut off, or read in other tokens, behind "
                        "the prompts of method.novice and method.expert; raise model.max_length or shorten the prompts"
                    )


def put_beside(kept: Reference, texts: Texts, needs: Needs, items: Iterable[Item]) -> None:
    """Of each of these items' texts, the two others' hidden states beside its own: [N, 3 D], of the answer's tokens."""
    for each, _, others in steered_texts(needs):
        for key, item in {texts.key(each, item): item for item in items}.items():
            own_ND = kept.hidden[key]
            beside = [kept.hidden[texts.key(other, item)][-len(own_ND) :] for other in others]
            kept.hidden[key] = torch.cat([own_ND, *beside], -1)
