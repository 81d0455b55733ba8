"""Is a fact known in any form of asking? The worst case of every item, and the mean over its forms."""

from abc import abstractmethod
from statistics import fmean
from typing import ClassVar, Literal

import numpy as np

from obliviate.data.rows import Role
from obliviate_eval.metrics.comparison import Comparison, Sample, Samples
from obliviate_eval.metrics.key_said import KeySaid
from obliviate_eval.metrics.worst_question import worst
from obliviate_eval.records import FORM, Probe
from obliviate_eval.statistics import Estimate, means, nothing

OTHER_FACT = ("reverse",)  # forms that ask for something else than the item's fact


class _OverForms(Comparison):
    """Of the forget items: does a model say the fact, asked plainly and in every form that the item can be asked in?
    Forms with options are read by the letters, and do not count: who knows nothing is right now and then.

    Needs `evaluation.questions: formats`. An item that one of its forms got no answer to, or whose fact is not known,
    is unscored.
    """

    needs: ClassVar = KeySaid.needs

    def asks(self, name: str, role: Role) -> bool:
        """The plain questions; the forms' metrics ask for themselves."""
        return role is Role.FORGET and FORM not in name

    @abstractmethod
    def of_item(self, said: list[float | None]) -> float | None:
        """Of its forms, the plain question first."""

    def estimate(self, samples: Samples) -> Estimate:
        """Items are resampled with all of their forms."""
        plain = {name: sample for name, sample in samples.items() if self.asks(name, sample.role)}
        resamples = len(next(iter(plain.values())).counts_RI) if plain else 0
        forms = {name: _forms(name, samples) for name in plain}
        if not any(forms.values()):
            return nothing(sum(len(sample.records) for sample in plain.values()), resamples)
        scores = [score for name, sample in plain.items() for score in self._scores(sample, forms[name])]
        return means([scores], np.concatenate([sample.counts_RI for sample in plain.values()], axis=1))[0]

    def _scores(self, plain: Sample, forms: list[Sample]) -> list[float | None]:
        said = {record.index: [_SAID.of(record)] for record in plain.records}
        for form in forms:
            for record in form.records:
                said[record.index].append(_SAID.of(record))
        return [self.of_item(said[record.index]) for record in plain.records]


class KnownByAny(_OverForms):
    """Share of the forget items whose fact the model says in any form, the plain question among them.

    More forms are more occasions, also for a chance hit: read it beside the retain model's, and with the same forms.
    """

    title: ClassVar = "Facts said in any form of asking"
    direction: ClassVar = "higher: more of the facts come out, in one form or another"
    source: ClassVar = "worst case over forms, as arXiv:2509.02820 over wordings"

    type: Literal["known_by_any"] = "known_by_any"

    def of_item(self, said: list[float | None]) -> float | None:
        return worst(said)


class KnownOnAverage(_OverForms):
    """The share of an item's forms in which the model says its fact, mean over the items of `known_by_any`."""

    title: ClassVar = "Facts said, mean over the forms of asking"
    direction: ClassVar = "higher: the facts come out in more of the forms"
    source: ClassVar = "beside known_by_any: what a mean hides"

    type: Literal["known_on_average"] = "known_on_average"

    def of_item(self, said: list[float | None]) -> float | None:
        known = [each for each in said if each is not None]
        return fmean(known) if known and len(known) == len(said) else None


_SAID = KeySaid()


def _forms(name: str, samples: Samples) -> list[Sample]:
    """The sets of its items that ask for the same fact."""
    return [
        sample
        for other, sample in samples.items()
        if other.startswith(name + FORM)
        and other.removeprefix(name + FORM) not in OTHER_FACT
        and sample.role is Role.FORGET
        and any(Probe.KEY in record.answers for record in sample.records)
    ]
