"""From an evaluation's config to its judges."""

import shutil
from pathlib import Path

from obliviate.data.fictitious import nli_pairs
from obliviate.errors import UserError
from obliviate.runs import content_hash
from obliviate_eval.judges import Judges
from obliviate_eval.judges.nli import NliModel
from obliviate_eval.judges.similarity import SentenceEncoder
from obliviate_eval.judges.train_nli import train_nli
from obliviate_eval.records import Probe
from obliviate_eval.spec import TRAINED_NLI, EvaluationSpec
from obliviate_eval.suites import SUITES

TRAINING_PEOPLE = 40
HELD_OUT_PEOPLE = 10
NEEDED_ACCURACY = 0.9  # on the held-out people, below which a trained judge is not used


def load_judges(spec: EvaluationSpec, cache: Path) -> Judges:
    """The judges that the suite needs. A trained one is kept in `cache`, a folder.

    Raises UserError where a model can't be found or a trained one is not good enough.
    """
    needs = SUITES[spec.suite].needs
    similarity = SentenceEncoder(spec.encoder) if spec.encoder and Probe.SIMILARITY in needs else None
    entailment = NliModel(_nli_source(spec, cache)) if spec.nli and Probe.ENTAILMENT in needs else None
    return Judges(similarity, entailment)


def _nli_source(spec: EvaluationSpec, cache: Path) -> str:
    if spec.nli != TRAINED_NLI:
        assert spec.nli is not None
        return spec.nli
    if spec.encoder is None:
        raise UserError(f"evaluation.nli: {TRAINED_NLI} starts from evaluation.encoder, which is null; give an encoder")
    folder = cache / f"nli-fictitious-{content_hash([spec.encoder, TRAINING_PEOPLE])[:10]}"
    if not folder.exists():
        pairs = nli_pairs(TRAINING_PEOPLE)
        seen = set(pairs)
        # A person's pairs don't depend on how many people there are: what is new is of the people who came last.
        held_out = [pair for pair in nli_pairs(TRAINING_PEOPLE + HELD_OUT_PEOPLE) if pair not in seen]
        accuracy = train_nli(spec.encoder, pairs, held_out, folder)
        if accuracy < NEEDED_ACCURACY:
            shutil.rmtree(folder)
            raise UserError(
                f"evaluation.nli: {TRAINED_NLI}: trained from {spec.encoder} the judge is right on {accuracy:.0%} of "
                f"held-out pairs, {NEEDED_ACCURACY:.0%} are needed; give another encoder, or an NLI model"
            )
    return str(folder)
