"""Nearest pairing and early drop: what they choose, and that they change what is trained on and nothing else."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch

from letters import Letters
from obliviate.config import UnlearnRun, build
from obliviate.data.rows import Corpus, Row
from obliviate.data.schedule import Item, Schedule
from obliviate.errors import UserError
from obliviate.methods import GA, GD
from obliviate.models import load_pretrained, load_tokenizer
from obliviate.schema import ModelSpec, OptimSpec
from obliviate.train.early_drop import EarlyDrop
from obliviate.train.job import Job
from obliviate.train.log import read_steps
from obliviate.train.loop import train
from obliviate_recipes.stages import nearness
from obliviate_recipes.stages.nearness import Dissimilar, bleu, check, drop_rule, nearest, nearest_retain
from training import FORGET, METHODS, RETAIN, job, losses, quiet, weights


@dataclass(frozen=True)
class AfterEach:
    """Drops what its list says at each call, and remembers what it was shown."""

    plan: tuple[tuple[int, ...], ...]
    calls: list[tuple[list[Row], list[str]]]
    max_new_tokens: int = 6

    def __call__(self, rows: Sequence[Row], said: Sequence[str]) -> list[bool]:
        gone = {FORGET[index] for index in self.plan[len(self.calls)]}
        self.calls.append((list(rows), list(said)))
        return [row in gone for row in rows]


def dropping(tiny: Path, directory: Path, *plan: tuple[int, ...], **optim: Any) -> tuple[Job, AfterEach]:
    rule = AfterEach(plan, [])
    return replace(job(tiny, directory, METHODS["npo+kl"], **optim), drop=rule), rule


def anchors(run: Job, dropped: dict[int, Sequence[int]]) -> list[list[int]]:
    """Of each step, by hand: what is left of its anchors once `dropped` (step -> rows) has happened before it."""
    gone: set[int] = set()
    found = []
    for step in range(run.schedule.steps):
        gone |= set(dropped.get(step, ()))
        found.append([item.anchor for item in run.schedule.step(step) if item.anchor not in gone])
    return found


def test_dropped_rows_are_trained_on_no_longer(tiny: Path, tmp_path: Path, process_group: None) -> None:
    """Eight rows, batches of four, three epochs: the rule is asked after steps 2 and 4, and not at the end."""
    run, rule = dropping(tiny, tmp_path, (0, 1, 2), (3, 4), epochs=3)
    train(run, quiet)
    lines = read_steps(tmp_path)
    logged = {line["step"]: line["early_drop"] for line in lines if "early_drop" in line}
    assert logged == {2: {"dropped": [0, 1, 2], "left": 5}, 4: {"dropped": [3, 4], "left": 3}}
    assert [len(rows) for rows, _ in rule.calls] == [8, 5]
    left = anchors(run, {2: (0, 1, 2), 4: (3, 4)})
    full = job(tiny, tmp_path / "full", METHODS["npo+kl"], epochs=3)
    train(full, quiet)
    for line, before, kept in zip(lines, read_steps(full.directory), left, strict=True):
        assert (line["tokens"] < before["tokens"]) == (len(kept) < 4)


def test_what_the_rule_is_shown_is_said_greedily(tiny: Path, tmp_path: Path, process_group: None) -> None:
    """At a learning rate of nearly nothing: the model's own greedy words, by the plain Hugging Face forward."""
    run, rule = dropping(tiny, tmp_path, (), epochs=2, learning_rate=1e-30)
    train(run, quiet)
    ((rows, said),) = rule.calls
    assert rows == list(FORGET)
    model, tokenizer = load_pretrained(run.model, dtype=torch.float32)
    for row, text in zip(rows, said, strict=True):
        ids = tokenizer.apply_chat_template(
            [{"role": "user", "content": row.question}], add_generation_prompt=True, return_dict=False
        )
        prompt = len(ids)
        while len(ids) < prompt + 6 and ids[-1:] != [tokenizer.eos_token_id]:
            with torch.no_grad():
                ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        assert text == tokenizer.decode(ids[prompt:], skip_special_tokens=True).strip()


def test_what_the_generation_defaults_name_ends_an_answer(tiny: Path, tmp_path: Path, process_group: None) -> None:
    """As in both engines: here the first token of the model's first answer."""

    def said(folder: Path, directory: Path) -> list[str]:
        run, rule = dropping(folder, directory, (), epochs=2, learning_rate=1e-30)
        train(run, quiet)
        return rule.calls[0][1]

    free = said(tiny, tmp_path / "free")
    tokenizer = load_tokenizer(ModelSpec(source=str(tiny)))
    end = tokenizer(free[0], add_special_tokens=False).input_ids[0]
    model = shutil.copytree(tiny, tmp_path / "model")
    (model / "generation_config.json").write_text(json.dumps({"eos_token_id": [tokenizer.eos_token_id, end]}))
    assert said(model, tmp_path / "ended")[0] == "" != free[0]


def test_nothing_left_ends_the_training(tiny: Path, tmp_path: Path, process_group: None) -> None:
    run, _ = dropping(tiny, tmp_path, tuple(range(8)), epochs=5)
    train(run, quiet)
    assert [line["step"] for line in read_steps(tmp_path)] == [1, 2]


def test_a_rule_that_drops_nothing_changes_nothing(tiny: Path, tmp_path: Path, process_group: None) -> None:
    run, _ = dropping(tiny, tmp_path / "rule", (), (), epochs=3)
    with_rule = weights(train(run, quiet))
    without = weights(train(replace(run, drop=None, directory=tmp_path / "none"), quiet))
    assert all(torch.equal(with_rule[name], without[name]) for name in without)


def test_a_resumed_run_drops_again_what_was_dropped(tiny: Path, tmp_path: Path, process_group: None) -> None:
    plan = ((0, 1), (5,))
    whole, _ = dropping(tiny, tmp_path / "whole", *plan, epochs=3)
    undisturbed = weights(train(whole, quiet))

    def dies(metrics: Any) -> None:
        if metrics["step"] == 4:  # its drop is logged, and its checkpoint is not yet written: it is asked again
            raise KeyboardInterrupt

    cut, _ = dropping(tiny, tmp_path / "cut", *plan, epochs=3, checkpoint_every_steps=1)
    with pytest.raises(KeyboardInterrupt):
        train(cut, dies)
    again, rule = dropping(tiny, tmp_path / "cut", plan[1], epochs=3, checkpoint_every_steps=1)
    resumed = weights(train(again, quiet))
    assert all(torch.equal(undisturbed[name], resumed[name]) for name in undisturbed)
    assert [len(rows) for rows, _ in rule.calls] == [6]


def test_an_epoch_that_ends_without_rows_is_an_epoch_too(tiny: Path, tmp_path: Path, process_group: None) -> None:
    """After the first epoch the rows of the second one's last step are gone: that epoch ends, for the rule, with the
    step before, whose model is the one that the epoch ends with."""
    of = job(tiny, tmp_path, epochs=4).schedule
    first, last = ([item.anchor for item in of.step(step)] for step in (2, 3))
    plan = (tuple(last), (first[0],), ())
    whole, rule = dropping(tiny, tmp_path / "whole", *plan, epochs=4)
    undisturbed = weights(train(whole, quiet))
    lines = {line["step"]: line.get("early_drop") for line in read_steps(whole.directory)}
    assert 4 not in lines
    assert lines[3] == {"dropped": [first[0]], "left": 3}
    assert [len(rows) for rows, _ in rule.calls] == [8, 4, 3]

    def dies(metrics: Any) -> None:
        if metrics["step"] == 5:
            raise KeyboardInterrupt

    cut, _ = dropping(tiny, tmp_path / "cut", *plan, epochs=4, checkpoint_every_steps=1)
    with pytest.raises(KeyboardInterrupt):
        train(cut, dies)
    again, rule = dropping(tiny, tmp_path / "cut", plan[2], epochs=4, checkpoint_every_steps=1)
    resumed = weights(train(again, quiet))
    assert all(torch.equal(undisturbed[name], resumed[name]) for name in undisturbed)
    assert [len(rows) for rows, _ in rule.calls] == [3]


def test_fewer_rows_than_workers_are_repeated_alike() -> None:
    items = [Item(anchor) for anchor in range(4)]
    drop = EarlyDrop(AfterEach((), []), FORGET, frozenset(), dropped={0, 3})
    assert [item.anchor for item in drop.left(items, 1)] == [1, 2]
    assert [item.anchor for item in drop.left(items, 3)] == [1, 2, 1, 2]
    drop.dropped |= {1, 2}
    assert drop.left(items, 3) == []


def test_repeated_rows_change_no_mean(tiny: Path, tmp_path: Path, process_group: None) -> None:
    """A batch of one row twice has the losses of that row once."""
    rows = (FORGET[0],)
    curves = []
    for name, times in (("once", 1), ("twice", 2)):
        run = replace(job(tiny, tmp_path / name, (GA(), GD()), batch_size=times, epochs=times), forget=rows * times)
        curves.append(losses(replace(run, retain=RETAIN[:1])))
    assert curves[0][:2] == pytest.approx(curves[1][:2], rel=1e-6)


def test_the_nearest_by_hand() -> None:
    """Counts of a, b and c as directions: "aab" is nearest to "ab", then to "a"; equal ones in their order."""
    retain = [Row("", text) for text in ("c", "a", "ab", "cc")]
    found = nearest(Letters(), [Row("", "aab"), Row("", "c")], retain, 2)  # type: ignore[arg-type]
    assert found == ((2, 1), (0, 3))


def test_however_many_pairs_are_compared_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a sort of all, with many equal ones, and more neighbours than there are rows."""
    draws = Random(0)
    forget, retain = ([Row("", "".join(draws.choices("abc", k=3))) for _ in range(many)] for many in (9, 30))
    cosine_FR = np.concatenate(list(nearness._cosines(Letters(), forget, retain)))  # type: ignore[arg-type]
    for count in (1, 4, 40):
        expected = np.argsort(-cosine_FR, axis=1, kind="stable")[:, :count].tolist()
        for cells in (1 << 26, 60, 1):
            monkeypatch.setattr(nearness, "CELLS", cells)
            assert nearest(Letters(), forget, retain, count) == tuple(map(tuple, expected))  # type: ignore[arg-type]


def test_a_forget_row_meets_its_neighbours_alone(tiny: Path, tmp_path: Path, process_group: None) -> None:
    near = tuple((index, index + 1) for index in range(8))
    of = Schedule(8, 10, 2, OptimSpec(batch_size=4, epochs=20), 0, neighbours=near)
    met: dict[int, set[int]] = {}
    for step in range(of.steps):
        for item in of.step(step):
            met.setdefault(item.anchor, set()).add(item.retain)
    assert met == {index: {index, index + 1} for index in range(8)}
    run = replace(job(tiny, tmp_path, (GA(), GD())), neighbours=near)
    assert {item.retain - item.anchor for step in range(run.schedule.steps) for item in run.schedule.step(step)} <= {
        0,
        1,
    }
    train(run, quiet)


def test_forgotten_is_below_either_threshold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearness, "sentence_encoder", lambda source: Letters())
    rule = Dissimilar("e", cosine=0.5, bleu=0.1, max_new_tokens=5)
    rows = [Row("?", "a a a a b")] * 3
    assert rule(rows, ["a a a a b", "c c c c", "a b a b"]) == [False, True, True]  # the last: BLEU of no four words


def test_bleu_by_hand() -> None:
    """Of 4 words 4, 3, 2 and 1 n-grams are right; against 5 words the brevity penalty is exp(1 - 5/4)."""
    assert bleu("the cat sat down here", "the cat sat down here") == pytest.approx(1)
    assert bleu("the cat sat down here", "the cat sat down") == pytest.approx(np.exp(1 - 5 / 4))
    assert bleu("the cat sat down here", "the dog sat up here now") == 0
    assert bleu("the cat sat down", "") == 0


def config(tiny: Path, **changed: Any) -> UnlearnRun:
    values = {"model": {"source": str(tiny)}, "data": {"type": "fictitious"}, "method": "me+gd", **changed}
    return build(UnlearnRun, values, where="test")


def test_what_they_cannot_use_is_refused(tiny: Path) -> None:
    text, row = Row("", "Once upon a time."), Row("Who?", "Ann.")
    with pytest.raises(UserError, match="early_drop: forget row 2 is a plain text, to which no answer"):
        check(config(tiny, early_drop={}), Corpus((row, text), (), ()))
    with pytest.raises(UserError, match="pairing: nearest: the data has no retain set"):
        check(config(tiny, pairing="nearest", method="ga"), Corpus((row,), (), ()))
    with pytest.raises(UserError, match="encoder: /nowhere: no folder with a model"):
        check(config(tiny, pairing="nearest", encoder="/nowhere"), Corpus((row,), (text,), ()))
    with pytest.raises(UserError, match="encoder: /nowhere: no folder with a model"):
        check(config(tiny, early_drop={}, encoder="/nowhere"), Corpus((row,), (), ()))
    with pytest.raises(UserError, match="neighbours: 3: only pairing: nearest chooses among them"):
        config(tiny, neighbours=3)
    for method in ("sku", "icku"):  # the one learns what it will lose, the other is silent behind a mark alone
        with pytest.raises(UserError, match=r"early_drop: while .* trains, its model answers"):
            config(tiny, early_drop={}, method=method)
    for key, value in (("cosine", 2), ("bleu", -1), ("max_new_tokens", 0)):
        with pytest.raises(UserError, match=rf"early_drop\.{key}"):
            config(tiny, early_drop={key: value})


def test_they_are_off_unless_asked_for(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearness, "sentence_encoder", lambda source: Letters())
    corpus = Corpus((Row("Who?", "Ann."),), (), ())
    assert drop_rule(config(tiny)) is None
    assert nearest_retain(config(tiny), corpus) is None
    rule = drop_rule(config(tiny, early_drop={"bleu": 0.2}, encoder="e"))
    assert rule == Dissimilar("e", cosine=0.3, bleu=0.2, max_new_tokens=50)
