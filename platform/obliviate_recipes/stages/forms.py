"""Items in other forms make longer prompts: five examples, a text, a dialogue."""

from collections.abc import Callable

from obliviate.data.rows import Row
from obliviate.models import encoder_of
from obliviate.schema import EngineSpec, GenerationSpec, ModelSpec
from obliviate_recipes.stage import placed
from obliviate_recipes.stages.hosted import longest

LENGTH = 2048  # tokens of a prompt and its answer, where the model has positions for them
NEW_TOKENS = 128  # where the config limits the whole length, which longer prompts would use up


def with_room(model: ModelSpec, here: ModelSpec, engine: EngineSpec) -> ModelSpec:
    """With room for longer prompts than it is asked otherwise. `here`: a model of its shape that is there already."""
    limit = longest(here, engine)
    return model.model_copy(update={"max_length": min(max(model.max_length, LENGTH), limit)})


def with_room_to_answer(generation: GenerationSpec) -> GenerationSpec:
    if generation.max_length is None:
        return generation
    return generation.model_copy(update={"max_length": None, "max_new_tokens": NEW_TOKENS})


def room_in(model: ModelSpec, here: ModelSpec) -> Callable[[Row], bool]:
    """Whether a row fits the model whole, its answers with it: a cut one is another."""
    encoder = encoder_of(placed(here, model))

    def fits(row: Row) -> bool:
        return not any(encoder.cuts(*row.saying(answer)) for answer in (row.fact, *row.perturbed_answers))

    return fits
