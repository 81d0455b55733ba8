"""The trained model as a Hugging Face folder: whole weights, or an adapter beside a reference to its base."""

from pathlib import Path
from typing import cast

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from obliviate.errors import UserError
from obliviate.models import load_tokenizer, name_elsewhere
from obliviate.runs import whole_folder
from obliviate.schema import ModelSpec
from obliviate.train.lora import add_lora
from obliviate.train.model import ScoredModel
from obliviate.train.together import together

PREFIX = "model."  # of the transformers model inside ScoredModel


def export(scored: ScoredModel, spec: ModelSpec, folder: Path) -> None:
    """Gather the float32 weights on the first worker and write them whole. Every worker calls it.

    Weights are stored in float32: rounded to bfloat16, the small updates of unlearning would be lost. Raises UserError,
    on every worker, where they cannot be written.
    """
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    state = get_model_state_dict(scored, options=options)
    whole = {name.removeprefix(PREFIX): cast(torch.Tensor, value) for name, value in state.items()}
    if cause := together(lambda: _write(scored, whole, spec, folder) if dist.get_rank() == 0 else None):
        raise UserError(
            f"{folder}: the model could not be written ({cause}); mend that and run the same command again: it "
            "continues from the last checkpoint"
        )


def _write(scored: ScoredModel, state: dict[str, torch.Tensor], spec: ModelSpec, folder: Path) -> None:
    causal = scored.causal_lm
    with torch.device("meta"):  # the gathered tensors take the places; nothing is initialised twice
        model = type(causal)(causal.config)
        if spec.lora is not None:
            model = add_lora(model, spec.lora, seed=0)
    model.load_state_dict(state, assign=True)
    whole = model.get_base_model() if spec.lora is not None else model
    whole.tie_weights()
    whole.config.use_cache = True
    whole.generation_config = causal.generation_config
    if spec.lora is not None and spec.lora.merge:
        model = model.merge_and_unload()
    elif spec.lora is not None:
        model.peft_config["default"].base_model_name_or_path = name_elsewhere(spec.source)
    with whole_folder(folder) as temporary:
        model.save_pretrained(temporary)
        load_tokenizer(spec).save_pretrained(temporary)
