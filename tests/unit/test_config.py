"""A config from its file, its base and the command line; and every mistake in it as one line that helps."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from obliviate.config import FinetuneRun, RunSpec, UnlearnRun, build, load
from obliviate.config_file import with_file
from obliviate.data import DataSpec
from obliviate.errors import UserError
from obliviate.methods import ALIASES, FORGET_TYPES, GA, GD, KL, ME, NPO, REGULARIZER_TYPES
from obliviate.schema import LoraSpec
from obliviate_eval.suites import SUITES
from obliviate_recipes.comparison import CompareRun
from obliviate_recipes.evaluation import EvaluateRun

TRAINING = "model: {source: some/model}\ndata: {type: fictitious}\n"
EVALUATION = "models: {a: {source: some/model}}\ndata: {type: fictitious}\n"
LONG = TRAINING + "method: {type: npo, beta: 0.5}\nregularizers: [{type: gd, weight: 3}]\n"

KNOWN = ", ".join({**FORGET_TYPES, **ALIASES})
FORGET, REGULARIZERS = ", ".join(FORGET_TYPES), ", ".join(REGULARIZER_TYPES)
DATA = ", ".join(each.model_fields["type"].default for each in get_args(get_args(DataSpec)[0]))

Read = Callable[..., Any]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Write the text to run.yaml and load it as `kind`, with overrides."""

    def read_text(text: str, *overrides: str, kind: type[RunSpec] = UnlearnRun) -> RunSpec:
        path = tmp_path / "run.yaml"
        path.write_text(text, encoding="utf-8")
        return load(kind, path, overrides)

    return read_text


def mistake(read: Read, text: str, *overrides: str, kind: type[RunSpec] = UnlearnRun) -> str:
    """The one line of the error, the file's name and what comes before it cut off."""
    with pytest.raises(UserError) as caught:
        read(text, *overrides, kind=kind)
    message = str(caught.value)
    assert "\n" not in message
    _, found, rest = message.partition("run.yaml: ")
    assert found, f"{message!r} does not name the file"
    return rest


def test_short_and_long_forms_of_a_method_are_the_same(read: Read) -> None:
    short = read(TRAINING + "method: npo+gd\n")
    assert short == read(TRAINING + "method: {type: npo}\nregularizers: [{type: gd}]\n")
    assert short == read(TRAINING + "method: npo\nregularizers: [gd]\n")
    assert short.terms == (NPO(), GD())
    assert short.label == "NPO+GD"


def test_defaults_are_the_published_ones(read: Read) -> None:
    """TOFU in "A Closer Look": lr 1e-5, 5 epochs, batch 32, weight decay 0.01, ME at weight 0.1."""
    run = read(TRAINING + "method: me+gd\n")
    assert (run.optim.learning_rate, run.optim.epochs, run.optim.batch_size, run.optim.weight_decay) == (
        1e-5, 5, 32, 0.01,
    )  # fmt: skip
    assert run.terms == (ME(weight=0.1), GD(weight=1.0))
    assert run.pairing == "fresh"


@pytest.mark.parametrize(
    ("method", "needs"),
    [("ga", False), ("npo", False), ("me", False), ("idk", False), ("dpo", False),
     ("npo+gd", True), ("idk+ap", True), ("npo+kl", True), ("llmu", True), ("ga+mismatch", True)],
)  # fmt: skip
def test_which_methods_need_a_retain_set(read: Read, method: str, needs: bool) -> None:
    assert read(TRAINING + f"method: {method}\n").needs_retain is needs


def test_overrides_reach_into_every_level(read: Read) -> None:
    run = read(
        LONG, "optim.learning_rate=1e-4", "model.lora.rank=4", "regularizers.0.weight=2", "method.beta=0.2", "seed=7"
    )
    assert run.optim.learning_rate == 1e-4
    assert run.model.lora == LoraSpec(rank=4)
    assert run.terms == (NPO(beta=0.2), GD(weight=2))
    assert run.seed == 7


def test_a_short_form_can_be_overridden_inside(read: Read) -> None:
    run = read(TRAINING + "method: npo+gd\n", "method.beta=0.2", "regularizers.0.weight=2")
    assert run.terms == (NPO(beta=0.2), GD(weight=2))


@pytest.mark.parametrize(("value", "layer"), [("3", 3), ("model.layers.3", "model.layers.3")])
def test_one_layer_serves_both_terms_of_rmu(read: Read, value: str, layer: int | str) -> None:
    run = read(TRAINING + "method: rmu\n", f"method.layer={value}")
    assert [term.layer for term in run.terms] == [layer, layer]
    assert read(TRAINING + "method: rmu\n", "regularizers.0.layer=5").terms[1].layer == 5


def test_a_layer_that_nobody_steers_is_asked_for(read: Read) -> None:
    message = mistake(read, TRAINING + "method: npo+activations\n")
    assert message == "activations.layer: npo steers no layer whose states could be held; give one"
    message = mistake(read, TRAINING + "method: rmu\n", "method.layer=-1")
    assert message == "method.layer: is -1; layers are counted from 0 (got -1)"


@pytest.mark.parametrize("regularizers", ["[{type: kl, positions: padded}, activations]", "[{type: kl}, js]"])
def test_positions_of_one_text_that_go_together(read: Read, regularizers: str) -> None:
    """Padding beside answers, and padding of the forget texts beside sequences of the retain texts."""
    read(TRAINING + f"method: {{type: rmu, positions: padded}}\nregularizers: {regularizers}\n")


def test_alternatives_are_sampled_on_the_evaluations_engine_unless_told_otherwise(read: Read) -> None:
    comparison = TRAINING + "methods: [altpo+gd]\nevaluation: {engine: {type: hf}}\n"
    run = read(comparison, kind=CompareRun)
    assert run.unlearning(run.methods[0], "m").alternatives.engine.type == "hf"
    run = read(comparison, "alternatives.engine.type=vllm", "alternatives.samples=3", kind=CompareRun)
    assert run.unlearning(run.methods[0], "m").alternatives.engine.type == "vllm"
    assert run.unlearning(run.methods[0], "m").alternatives.samples == 3


def test_a_method_on_the_command_line_takes_the_place_of_the_files(read: Read) -> None:
    assert read(LONG, "method=ga+kl").terms == (GA(), KL())
    assert read(LONG, "method=npo").terms == (NPO(),)  # the file's beta and regularizer are another method's
    assert read(LONG, "method=ga+kl", "method.weight=2").terms == (GA(weight=2), KL())


def test_overrides_of_a_comparison(read: Read) -> None:
    run = read(TRAINING + "methods: [me+gd, npo]\n", "methods.0.optim.epochs=3", "methods.1.method.beta=1",
               kind=CompareRun)  # fmt: skip
    first, second = (run.unlearning(method, "model") for method in run.methods)
    assert (first.label, first.optim.epochs, second.optim.epochs) == ("ME+GD", 3, 5)
    assert second.terms == (NPO(beta=1),)


def test_overrides_leave_the_callers_values_alone() -> None:
    values = {
        "model": {"source": "m"},
        "data": {"type": "fictitious"},
        "method": {"type": "npo"},
        "regularizers": [{"type": "gd"}],
    }
    build(UnlearnRun, values, ["method.beta=1", "regularizers.0.weight=2"], where="here")
    assert values["method"] == {"type": "npo"}
    assert values["regularizers"] == [{"type": "gd"}]


class TestBase:
    """One file over another."""

    def test_the_files_own_keys_win(self, read: Read, tmp_path: Path) -> None:
        (tmp_path / "base.yaml").write_text(LONG + "optim: {epochs: 3, batch_size: 8}\n")
        run = read("base: base.yaml\noptim: {epochs: 1}\nmethod: {beta: 0.9}\n")
        assert (run.optim.epochs, run.optim.batch_size) == (1, 8)
        assert run.terms == (NPO(beta=0.9), GD(weight=3))

    def test_a_mapping_of_another_type_replaces_the_bases(self, read: Read, tmp_path: Path) -> None:
        (tmp_path / "base.yaml").write_text(LONG)
        run = read("base: base.yaml\nmethod: {type: ga}\ndata: {type: tofu, split: forget01}\n")
        assert run.terms == (GA(), GD(weight=3))
        assert run.data.split == "forget01"

    def test_a_short_form_names_all_terms(self, read: Read, tmp_path: Path) -> None:
        (tmp_path / "base.yaml").write_text(LONG)
        assert read("base: base.yaml\nmethod: ga+kl\n").terms == (GA(), KL())
        (tmp_path / "base.yaml").write_text(TRAINING + "method: npo+gd\n")
        assert read("base: base.yaml\nregularizers: [kl]\n").terms == (NPO(), KL())

    def test_mistakes(self, read: Read, tmp_path: Path) -> None:
        (tmp_path / "base.yaml").write_text("base: other.yaml\n" + LONG)
        with pytest.raises(UserError, match=r"base\.yaml: base: a base may not have a base; put its keys into one"):
            read("base: base.yaml\n")
        with pytest.raises(UserError, match=r"nowhere\.yaml: no such file"):
            read("base: nowhere.yaml\n")
        assert mistake(read, "base: 3\n" + LONG) == "base: 3 is no file name; give one, relative to this file's folder"
        (tmp_path / "base.yaml").write_text(LONG)
        with pytest.raises(UserError, match=r"run\.yaml \(base base\.yaml\): sed: unknown key; did you mean seed\?"):
            read("base: base.yaml\nsed: 3\n")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("optm: {}\n", "optm: unknown key; did you mean optim?"),
        ("optim: {learning_rat: 1}\n", "optim.learning_rat: unknown key; did you mean learning_rate?"),
        ("optm: {}\nclustr: {}\n", "optm: unknown key; did you mean optim? (and 1 more)"),
        ("xyz: 1\n", f"xyz: unknown key; known: {', '.join(UnlearnRun.model_fields)}"),
        ("optim: {epochs: many}\n", "optim.epochs: should be a valid number, unable to parse string as a number "
                                    "(got 'many')"),
        ("optim: {learning_rate: .inf}\n", "optim.learning_rate: should be a finite number (got inf)"),
        ("optim: {epochs: -1}\n", "optim.epochs: should be greater than 0 (got -1)"),
        ("optim: {epochs: [1, 2]}\n", "optim.epochs: should be a valid number"),
        ("optim: {betas: [0.9, 2]}\n", "optim.betas.1: should be less than 1 (got 2)"),
        ("optim: fast\n", "optim: is 'fast'; give keys and values"),
        ("optim:\n", "optim: is None; give keys and values"),
        ("pairing: frsh\n", "pairing: should be 'fresh', 'fixed' or 'nearest' (got 'frsh')"),
        ("optim: {batch_size: 2}\ncluster: {workers: 3}\n",
         "optim.batch_size: 2 is less than cluster.workers: 3; every worker needs an item of each batch"),
        ("seed: 4294967296\n", "seed: should be less than 4294967296 (got 4294967296)"),
        ("seed: -1\n", "seed: should be greater than or equal to 0 (got -1)"),
        ('"a\\nb": 2\n', f"a b: unknown key; known: {', '.join(UnlearnRun.model_fields)}"),
        ("1: 2\n", "1: Keys should be strings (got 1)"),
        ('name: "a\\ud83d"\n', r"line 4, column 7: not YAML: 'a\ud83d' holds half of a character; write it whole"),
        ("seed: 1\nseed: 2\n", "line 5, column 1: not YAML: the key 'seed' is given twice; keep one of them"),
    ],
)  # fmt: skip
def test_mistakes_in_any_key(read: Read, text: str, expected: str) -> None:
    assert mistake(read, TRAINING + "method: npo\n" + text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "method: missing; add it"),
        ("method: npoo\n", f"method: npoo: no forget objective 'npoo'; known: {KNOWN}"),
        ("method: npo+gdd\n", f"method: npo+gdd: no regularizer 'gdd'; known: {REGULARIZERS}"),
        ("method: {type: npoo}\n", "method.type: 'npoo' is not known; did you mean npo?"),
        ("method: {type: xyz}\n", f"method.type: 'xyz' is not known; known: {FORGET}"),
        ("method: {beta: 1}\n", f"method: has no type; add one of {FORGET}"),
        ("method: 3\n", f"method: is 3; give keys and values, type among them: {FORGET}"),
        ("method: {type: npo, beta: .inf}\n", "method.beta: should be a finite number (got inf)"),
        ("method: {type: npo, bta: 1}\n", "method.bta: unknown key; did you mean beta?"),
        ("method: npo\nregularizers: [{type: kl, postions: padded}]\n",
         "regularizers.0.postions: unknown key; did you mean positions?"),
        ("method: npo\nregularizers: [gd, gdd]\n", "regularizers.1.type: 'gdd' is not known; did you mean gd?"),
        ("method: npo+gd\nregularizers: [gd]\n",
         "regularizers: given twice, as 'npo+gd' in method and as a list; keep one of them"),
        ("method: {type: rmu}\nregularizers: [{type: kl, positions: padded}, {type: js, positions: sequence}]\n",
         "positions: kl with padded and js with sequence read the same texts, and padding would count for "
         "both; give both the same positions, or one of them answer"),
    ],
)  # fmt: skip
def test_mistakes_in_the_method(read: Read, text: str, expected: str) -> None:
    assert mistake(read, TRAINING + text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("data: {type: fictitious}\n", "model: missing; add it"),
        ("model: {}\ndata: {type: fictitious}\n", "model.source: missing; add it"),
        ("model: {sorce: m}\ndata: {type: fictitious}\n",
         "model.sorce: unknown key; did you mean source? (and 1 more)"),  # before what it leaves missing
        ("model: {source: m, lora: {rnk: 3}}\ndata: {type: fictitious}\n",
         "model.lora.rnk: unknown key; did you mean rank?"),
        ("model: some/model\ndata: {type: fictitious}\n", "model: is 'some/model'; give keys and values"),
        ("model: {source: m}\ndata: tofu\n",
         f"data: is 'tofu'; give keys and values, type among them: {DATA}"),
        ("model: {source: m}\ndata: {split: forget01}\n", f"data: has no type; add one of {DATA}"),
        ("model: {source: m}\ndata: {type: fictitious, peple: 3}\n", "data.peple: unknown key; did you mean people?"),
        ("model: {source: m}\ndata: {type: fictitious, people: 1, forget_people: 2}\n",
         "data: forget_people: 2 is more than people: 1; lower it"),
    ],
)  # fmt: skip
def test_mistakes_in_model_and_data(read: Read, text: str, expected: str) -> None:
    assert mistake(read, text, kind=FinetuneRun) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("evaluation: {generation: {max_length: 200}}\n",
         "evaluation.generation: max_new_tokens=128 (excludes the prompt) and max_length=200 (includes it): give one "
         "of them, and null for the other"),
        ("evaluation: {generation: {max_new_tokens: null}}\n",
         "evaluation.generation: max_new_tokens=None (excludes the prompt) and max_length=None (includes it): give "
         "one of them, and null for the other"),
        ("evaluation: {suite: closer}\n",
         "evaluation.suite: is not known; did you mean closer_look? (got 'closer')"),
        ("evaluation: {suite: xyz}\n", f"evaluation.suite: is not known; known: {', '.join(SUITES)} (got 'xyz')"),
        ("evaluation: {suite: {metrics: [rouge, roug]}}\n",
         "evaluation.suite: metrics.1.type: 'roug' is not known; did you mean rouge?"),
        ("evaluation: {suite: {metrics: [rouge, {type: rouge, words: published}]}}\n",
         "evaluation.suite: rouge is there twice, and figures go by that name; keep one"),
        ("evaluation: {suite: {aggregates: []}}\n", "evaluation.suite: metrics: missing; add it"),
        ("retain_model: b\n", "retain_model: 'b' is not among models: a"),
    ],
)  # fmt: skip
def test_mistakes_in_an_evaluation(read: Read, text: str, expected: str) -> None:
    assert mistake(read, EVALUATION + text, kind=EvaluateRun) == expected


def test_a_models_own_name_stays_in_the_key(read: Read) -> None:
    """Also where it is the name of a method, which pydantic uses as a tag elsewhere."""
    text = "models: {npo: {source: m, lra: 1}}\ndata: {type: fictitious}\n"
    assert mistake(read, text, kind=EvaluateRun) == "models.npo.lra: unknown key; did you mean lora?"


def test_published_generation_length_includes_the_prompt(read: Read) -> None:
    run = read(EVALUATION, "evaluation.generation={max_length: 200, max_new_tokens: null}", kind=EvaluateRun)
    assert (run.evaluation.generation.max_length, run.evaluation.generation.max_new_tokens) == (200, None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("methods: [me+gd, npoo]\n", f"method: npoo: no forget objective 'npoo'; known: {KNOWN}"),
        ("methods: {a: me+gd}\n", "methods: is {'a': 'me+gd'}; give a list"),
        ("methods: [me+gd, me+gd]\n", "methods: two are called ME+GD; give each a `name` of its own"),
        ("methods: [me, {method: npo, regulrizers: [gd]}]\n",
         "methods.1.regulrizers: unknown key; did you mean regularizers?"),
        ("methods: [me, {method: npo, optim: {epoch: 3}}]\n",
         "methods.1: optim.epoch: unknown key; did you mean epochs?"),
        ("methods: [{method: {type: npo, beta: -3}}]\n", "methods.0.method.beta: should be greater than 0 (got -3)"),
        ("method: me+gd\n", "method: unknown key; did you mean methods? (and 1 more)"),
        ("methods: [me]\nfinetune: {}\nretain_model: {source: m}\n",
         "retain_model: finetune makes one; remove retain_model, or finetune"),
    ],
)  # fmt: skip
def test_mistakes_in_a_comparison(read: Read, text: str, expected: str) -> None:
    assert mistake(read, TRAINING + text, kind=CompareRun).startswith(expected)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("optim.epochs", "write it as key=value, for example optim.learning_rate=1e-5"),
        ("=3", "write it as key=value, for example optim.learning_rate=1e-5"),
        ("optim..epochs=3", "write it as key=value, for example optim.learning_rate=1e-5"),
        (
            "optim.epochs=[",
            "the value: line 1, column 2: not YAML: expected the node content, but found '<stream end>'",
        ),
        ("seed.x=3", "seed is 1, which has no keys"),
        ("regularizers.5.weight=2", "'5' is not an entry of a list of 1; count from 0"),
        ("regularizers.gd.weight=2", "'gd' is not an entry of a list of 1; count from 0"),
        ("regularizers.1={type: kl}", "'1' is not an entry of a list of 1; count from 0"),
    ],
)
def test_mistakes_in_an_override(read: Read, override: str, expected: str) -> None:
    assert mistake(read, LONG + "seed: 1\n", override) == f"override {override!r}: {expected}"


def test_a_character_in_two_halves_is_one(read: Read) -> None:
    assert read(LONG + 'name: "\\ud83d\\ude00"\n').name == "\U0001f600"


def test_an_override_is_validated_like_the_file(read: Read) -> None:
    assert mistake(read, LONG, "optim.epoch=3") == "optim.epoch: unknown key; did you mean epochs?"
    assert mistake(read, LONG, "optim.epochs=") == "optim.epochs: should be a valid number (got None)"
    assert mistake(read, LONG, "method=npoo").startswith("method: npoo: no forget objective")
    assert mistake(read, LONG, "method.type=ga").startswith("method.beta: unknown key; known: type, weight")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "is empty; give keys and values, as the files in configs/ do"),
        ("- a\n- b\n", "holds a list; give keys and values, as the files in configs/ do"),
        ("model: [\n", "line 2, column 1: not YAML: expected the node content, but found '<stream end>'"),
        ("a:\n\tb: 1\n", "line 2, column 1: not YAML: found character '\\t' that cannot start any token"),
    ],
)
def test_files_that_are_no_config(read: Read, text: str, expected: str) -> None:
    assert mistake(read, text) == expected


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.yaml: no such file; configs/ has ready ones$"):
        load(UnlearnRun, tmp_path / "nowhere.yaml")
    with pytest.raises(UserError, match=f"^{tmp_path}: cannot be read: Is a directory; give a YAML file$"):
        load(UnlearnRun, tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"ab\xff")
    with pytest.raises(UserError, match=r"binary\.yaml: byte 2 is not UTF-8; give a YAML file$"):
        load(UnlearnRun, tmp_path / "binary.yaml")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda each: st.lists(each, max_size=3) | st.dictionaries(st.text(max_size=5), each, max_size=3),
    max_leaves=6,
)
KEYS = ["model", "data", "method", "regularizers", "optim", "type", "source", "beta", "npo", "gd", "fictitious"]


@given(st.dictionaries(st.sampled_from(KEYS), json_values | st.dictionaries(st.sampled_from(KEYS), json_values)))
def test_any_mapping_is_a_config_or_a_mistake_in_one_line(values: dict[str, Any]) -> None:
    for kind in (UnlearnRun, CompareRun, EvaluateRun):
        message = "here: "
        try:
            build(kind, values, where="here")
        except UserError as error:
            message = str(error)
        assert message.startswith("here: ")
        assert len(message.splitlines()) == 1


@pytest.mark.parametrize(
    ("message", "override", "file"),
    [
        ("optim.epochs: 0 is too few", (), "run.yaml"),
        ("data.split: is not there", (), "base.yaml"),
        ("data.people.0: is nobody", (), "base.yaml"),
        ("model.lora: is not for it", (), "run.yaml"),  # which has the model, if without the key: it goes there
        ("optim.epochs: 0 is too few", ("optim.epochs=0",), None),
        ("optim.epochs: 0 is too few", ("optim={epochs: 0}",), None),
        ("cluster.workers=2: too many", (), None),  # the value is in the message: it may be a default
        ("evaluation.nli: is not there", (), None),
        ("batch 3: policy not met", (), None),
        ("somewhere/file.jsonl, line 3: not JSON", (), None),
    ],
)
def test_which_file_has_the_key(tmp_path: Path, message: str, override: tuple[str, ...], file: str | None) -> None:
    (tmp_path / "base.yaml").write_text("data: {split: forget01, people: [ada]}\noptim: {epochs: 3}\nmodel: {}\n")
    path = tmp_path / "run.yaml"
    path.write_text("base: base.yaml\noptim: {epochs: 0}\ncluster: {workers: 1}\nmodel: {source: x}\n")
    assert with_file(path, override, message) == (message if file is None else f"{tmp_path / file}: {message}")
