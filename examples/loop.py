"""Unlearning in one file: what `obliviate unlearn` does, step by step, in plain torch.

    python examples/loop.py MODEL forget.jsonl retain.jsonl OUTPUT npo+gd

Left out is what makes it large, safe and resumable: many workers, sharded weights, micro-batches, checkpoints, and a
frozen model whose answers are kept instead of the model itself. The result is the same. Imported are the parts that
work for themselves: the losses, the statistics that they take of logits, and the layout of questions and answers.

Shapes: B texts, T tokens, V vocabulary.
"""

import sys
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import torch
from numpy.random import default_rng
from transformers import AutoModelForCausalLM, AutoTokenizer

from obliviate.data.refusals import REFUSALS
from obliviate.data.rows import Row, read_rows
from obliviate.data.text import Encoded, TextEncoder
from obliviate.hf import token_scores
from obliviate.methods import ALIASES, FORGET_TYPES, REGULARIZER_TYPES, Pass, Text, union_of_needs
from obliviate.scoring import needs_reference


def unlearn(
    source: Path,
    forget: tuple[Row, ...],
    retain: tuple[Row, ...],
    output: Path,
    method: str = "npo+gd",
    *,
    epochs: float = 5,  # passes over the forget rows
    batch_size: int = 8,  # forget rows of a step; each brings a retain row with it
    learning_rate: float = 1e-5,
    weight_decay: float = 0.01,
    max_grad_norm: float = 1.0,
    max_length: int = 512,  # tokens
    seed: int = 0,
) -> list[float]:
    """Write the unlearned model to `output`; the loss of every step."""
    # 1. The model, and the same as it is now. In evaluation mode, so that nothing is dropped at random.
    tokenizer = AutoTokenizer.from_pretrained(source)
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
    reference = deepcopy(model).requires_grad_(False)
    encoder = TextEncoder(tokenizer, max_length=max_length)

    # 2. The method: one term that forgets and any number that keep, each with what it needs of which texts.
    first, *rest = ALIASES.get(method, method).split("+")
    terms = [FORGET_TYPES[first](type=first), *(REGULARIZER_TYPES[name](type=name) for name in rest)]
    needs = union_of_needs(terms)

    # 3. AdamW. Matrices decay, vectors (norms, biases) do not.
    matrices = [weight for weight in model.parameters() if weight.ndim >= 2]
    vectors = [weight for weight in model.parameters() if weight.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}],
        lr=learning_rate,
        betas=(0.9, 0.999),
    )

    # 4. How many steps, and how many of them warm up.
    steps_per_epoch = max(1, len(forget) // batch_size)
    steps = max(1, int(epochs * len(forget)) // batch_size)
    warmup = steps_per_epoch if steps_per_epoch > 1 else 0

    losses = []
    for step in range(steps):
        # 5. The schedule: an epoch is a shuffle of the forget rows, each of which draws its companions anew.
        texts: dict[Text, list[Encoded]] = {each: [] for each in needs if not each.of_reference}
        for position in range(step * batch_size, (step + 1) * batch_size):
            epoch, place = divmod(position, len(forget))
            number = int(default_rng([seed, epoch]).permutation(len(forget))[place])
            draws = default_rng([seed, number, epoch + 1]).random(6)
            asked = forget[number]
            kept, other = (retain[int(draw * len(retain))] for draw in draws[:2])
            refusal, kept_refusal = (REFUSALS[int(draw * len(REFUSALS))] for draw in draws[2:4])
            said = {
                Pass.FORGET: asked,
                Pass.FORGET_IDK: replace(asked, answer=refusal),
                Pass.FORGET_MISMATCH: replace(asked, answer=other.answer),
                Pass.RETAIN: kept,
                Pass.RETAIN_IDK: replace(kept, answer=kept_refusal),
            }
            for each, encoded in texts.items():
                encoded.append(encoder.encode_row(said[each]))

        # 6. The forward passes: of every text the statistics that the terms ask for, token by token.
        scores = {}
        for each, encoded in texts.items():
            input_ids_BT, attention_BT, labels_BT = padded(encoded, tokenizer.pad_token_id or 0)
            logits_BTV = model(input_ids=input_ids_BT, attention_mask=attention_BT).logits
            reference_BTV = None
            if each.reference in needs or any(map(needs_reference, needs[each])):
                with torch.no_grad():
                    reference_BTV = reference(input_ids=input_ids_BT, attention_mask=attention_BT).logits
            scores[each] = token_scores(logits_BTV, labels_BT, needs[each], reference_BTV, attention_BT)
            if each.reference in needs:
                assert reference_BTV is not None
                wanted = needs[each.reference]
                scores[each.reference] = token_scores(reference_BTV, labels_BT, wanted, None, attention_BT)

        # 7. The loss: each term's sum over what it counts (texts or tokens), weighted.
        parts = [term.loss(scores) for term in terms]
        loss = torch.stack([t.weight * part.sum / part.count for t, part in zip(terms, parts, strict=True)]).sum()
        loss.backward()

        # 8. The update: the learning rate rises from 0 over the warm-up, then falls to 0 at the end.
        rise, fall = step / max(1, warmup), (steps - step) / max(1, steps - warmup)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * (rise if step < warmup else fall)
        torch.nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))

    # 9. A folder that transformers and vLLM open.
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)
    return losses


def padded(texts: list[Encoded], padding: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Input ids, attention mask and labels [B, T]; a label is -100 where a token is not of the answer."""
    length = max(len(text.input_ids) for text in texts)
    input_ids, attention, labels = [], [], []
    for text in texts:
        rest = length - len(text.input_ids)
        input_ids.append([*text.input_ids, *[padding] * rest])
        attention.append([1] * len(text.input_ids) + [0] * rest)
        labels.append([-100] * text.prompt_length + [*text.answer_ids] + [-100] * rest)
    return torch.tensor(input_ids), torch.tensor(attention), torch.tensor(labels)


if __name__ == "__main__":
    source, forget, retain, output, method = sys.argv[1:]
    for number, loss in enumerate(unlearn(Path(source), read_rows(forget), read_rows(retain), Path(output), method), 1):
        print(f"step {number}: loss {loss:.4f}")
