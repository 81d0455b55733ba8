"""What the documents say is so: every key of the configs, every path, every example."""

import re
import subprocess
import sys
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import pytest
from pydantic import BaseModel, TypeAdapter

from obliviate import plugins
from obliviate.config import FinetuneRun, RunSpec, UnlearnRun, load
from obliviate.data import DataSpec
from obliviate.methods import FORGET_TYPES, REGULARIZER_TYPES
from obliviate.methods.base import Term
from obliviate.options import UnlearnOptions
from obliviate.schema import Spec
from obliviate_eval.metrics import Comparison
from obliviate_eval.metrics.base import Metric
from obliviate_recipes.attacking import AttackRun
from obliviate_recipes.comparison import CompareRun
from obliviate_recipes.continual import ContinualMethod, ContinualRun
from obliviate_recipes.erase import EraseRun
from obliviate_recipes.evaluation import EvaluateRun
from obliviate_recipes.fuse import FuseRun
from obliviate_recipes.probe import ProbeRun
from obliviate_recipes.questions import EntityRun
from obliviate_recipes.requests.spec import RequestsRun
from obliviate_recipes.snap.spec import SnapRun
from obliviate_recipes.sweeps.spec import SweepRun
from obliviate_recipes.worst_case.spec import WorstCaseRun
from obliviate_serve.spec import ServeRun

ROOT = Path(__file__).parents[2]
CONFIGURATION = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
KINDS: dict[str, type[RunSpec]] = {
    "finetune": FinetuneRun,
    "unlearn": UnlearnRun,
    "compare": CompareRun,
    "attack": AttackRun,
    "evaluate": EvaluateRun,
    "serve": ServeRun,
    "sweep": SweepRun,
    "sweep-attack": WorstCaseRun,
    "fuse": FuseRun,
    "erase": EraseRun,
    "continual": ContinualRun,
    "probe-knowledge": ProbeRun,
    "make-questions": EntityRun,
    "snap": SnapRun,
    "request run": RequestsRun,
}


def specs_in(annotation: Any) -> Iterator[type[Spec]]:
    """The specs that an annotation mentions, inside unions, lists and mappings too."""
    if isinstance(annotation, type) and issubclass(annotation, Spec):
        yield annotation
    for argument in get_args(annotation):
        yield from specs_in(argument)


def sections(kind: type[Spec], path: str, parent: str | None = None) -> Iterator[tuple[str, type[Spec]]]:
    """(heading, spec) of the spec and of all that it holds, a union's members by their type; no methods or metrics."""
    yield path, kind
    for name, field in kind.model_fields.items():
        members = [
            spec
            for spec in dict.fromkeys(specs_in(field.annotation))
            if not issubclass(spec, Term | Metric | Comparison)
        ]
        for spec in members:
            below = name if parent is None else f"{parent}.{name}"
            yield from sections(
                spec, f"{below}: {spec.model_fields['type'].default}" if len(members) > 1 else below, below
            )


SECTIONS = [each for verb, kind in KINDS.items() for each in sections(kind, f"obliviate {verb}")]
HEADINGS = {spec: [heading for heading, other in SECTIONS if other is spec] for _, spec in SECTIONS}
# Entries of `methods` of two verbs: the second has a section that says whose it is.
HEADINGS[ContinualMethod] = ["methods` of `obliviate continual"]


def table_of(spec: type[Spec]) -> dict[str, str]:
    """Key -> default, as the document's section on the spec has them."""
    for heading in HEADINGS[spec]:
        _, found, rest = CONFIGURATION.partition(f"\n## `{heading}`\n")
        if found:
            rows = re.findall(r"^\| `(\w+)` \| (.+?) \| .+ \|$", rest.partition("\n## ")[0], flags=re.MULTILINE)
            return dict(rows)
    pytest.fail(f"docs/configuration.md has no section on {spec.__name__}: add ## `{HEADINGS[spec][0]}`")


def shown(value: Any) -> str:
    """A default as YAML writes it."""
    if isinstance(value, Enum):
        return shown(value.value)
    if value is None or isinstance(value, bool):
        return f"`{str(value).lower().replace('none', 'null')}`"
    if isinstance(value, tuple):
        return f"`[{', '.join(map(str, value))}]`"
    return '`""`' if value == "" else f"`{value}`"


def listed(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else ()


def documented(spec: type[Spec]) -> list[str]:
    """A spec's keys. What others take of `unlearn` stands in its section alone."""
    inherited = issubclass(spec, UnlearnOptions) and not issubclass(spec, UnlearnRun)
    return [key for key in spec.model_fields if not (inherited and key in UnlearnOptions.model_fields)]


@pytest.mark.parametrize("spec", sorted(HEADINGS.keys() - {UnlearnOptions}, key=str), ids=lambda spec: spec.__name__)
def test_every_key_is_documented_with_its_default(spec: type[Spec]) -> None:
    rows = table_of(spec)
    assert sorted(rows) == sorted(documented(spec)), f"{spec.__name__}: keys of the document and of the code differ"
    for name in documented(spec):
        field = spec.model_fields[name]
        if field.is_required():
            assert rows[name] == "required"
        elif not any(isinstance(each, BaseModel) for each in (field.default, *listed(field.default))):
            assert rows[name] == shown(field.default), f"{spec.__name__}.{name}"


CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))


def test_there_are_configs() -> None:
    assert len(CONFIGS) > 5


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(ROOT / "configs")))
def test_every_config_does_what_its_comment_says(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each names the command that runs it, overrides included, and is valid for it."""
    monkeypatch.chdir(ROOT)
    commands = re.findall(
        r"^#   obliviate (request run|[\w-]+) (\S+\.yaml)(.*)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE
    )
    assert commands, f"{path}: no comment says how to run it: #   obliviate VERB {path.relative_to(ROOT)}"
    for verb, named, rest in commands:
        assert named == str(path.relative_to(ROOT))
        words = rest.split()
        overrides = words[2:] if verb == "serve-promote" else words  # behind an alias and a model
        load(KINDS[verb.removesuffix("-promote")], path, overrides)


def test_the_demos_config_is_valid() -> None:
    run = load(CompareRun, ROOT / "platform" / "obliviate_cli" / "demo.yaml")
    assert [run.unlearning(method, "m").label for method in run.methods] == ["ME+GD", "IDK+AP"]
    attacked = load(AttackRun, ROOT / "platform" / "obliviate_cli" / "demo_attacks.yaml")
    assert (attacked.methods, attacked.optim, attacked.runs) == (run.methods, run.optim, run.runs)  # the same models


def test_the_published_settings() -> None:
    """ "A Closer Look" on TOFU: lr 1e-5, 5 epochs, batch 32, weight decay 0.01, ME at 0.1, greedy up to 200 tokens."""
    for path in (ROOT / "configs" / "tofu").glob("llama2_*.yaml"):
        run = load(CompareRun, path)
        assert run.data.split == path.stem.removeprefix("llama2_")  # type: ignore[union-attr]
        assert run.evaluation.generation.max_length == 200
        for method in run.methods:
            unlearning = run.unlearning(method, "m")
            assert unlearning.optim.model_dump(include={"learning_rate", "epochs", "batch_size", "weight_decay"}) == {
                "learning_rate": 1e-5, "epochs": 5, "batch_size": 32, "weight_decay": 0.01,
            }  # fmt: skip
            weights = {term.type: term.weight for term in unlearning.terms}
            assert weights.pop("me", 0.1) == 0.1
            assert set(weights.values()) == {1.0}


DOCUMENTS = sorted(path for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("benchmarks/*.md")])


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        if not target.startswith(("http://", "https://")):
            assert (path.parent / target).exists(), f"{path.name} links to {target}"


def code_blocks(document: str, language: str) -> dict[str, str]:
    """The fenced blocks whose first line is a comment with a path: path -> code."""
    text = (ROOT / document).read_text(encoding="utf-8")
    blocks = re.findall(rf"^```{language}\n# (\S+)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    return {path: "\n" + code for path, code in blocks}


def test_the_readmes_configs_are_valid(tmp_path: Path) -> None:
    for name, kind in (("mine.yaml", UnlearnRun), ("measure.yaml", EvaluateRun)):
        (tmp_path / name).write_text(code_blocks("README.md", "yaml")[name])
        load(kind, tmp_path / name)


def test_the_readmes_tree_is_the_repository() -> None:
    """Every path of the tree is there, and everything at the top is in the tree."""
    tree = re.search(r"```text\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    assert tree is not None
    folders: list[str] = []
    top: set[str] = set()
    for line in tree[1].splitlines():
        name, depth = line.split()[0], (len(line) - len(line.lstrip())) // 2
        folders[depth:] = [name]
        assert (ROOT / "".join(folders)).exists(), f"README's tree has {''.join(folders)}"
        if depth == 0:
            top.add(name.rstrip("/"))
    assert {name.partition("/")[0] for name in tracked()} - top <= {"README.md"}


def tracked() -> list[str]:
    """Tracked files, those that begin with a dot left out."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [name for name in listed.splitlines() if not name.startswith(".")]


def module(name: str, code: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    made = ModuleType(name)
    monkeypatch.setitem(sys.modules, name, made)
    exec(compile(code, name, "exec"), vars(made))
    return made


@pytest.mark.parametrize(
    ("document", "source", "test"),
    [
        ("docs/adding-a-method.md", "platform/obliviate/methods/capped.py", "tests/numerics/test_capped.py"),
        (
            "docs/adding-a-metric.md",
            "evaluation/obliviate_eval/metrics/length_ratio.py",
            "tests/unit/test_metric_length_ratio.py",
        ),
    ],
)
def test_the_worked_examples_work(document: str, source: str, test: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example's file is imported as the document says, and its tests pass."""
    blocks = code_blocks(document, "python")
    name = source.partition("/")[2].removesuffix(".py").replace("/", ".")
    module(name, blocks[source], monkeypatch)
    tests = [
        value for key, value in vars(module("example", blocks[test], monkeypatch)).items() if key.startswith("test_")
    ]
    assert tests
    for each in tests:
        each()


def test_the_example_method_does_not_take_a_real_ones_name() -> None:
    assert "capped" not in {**FORGET_TYPES, **REGULARIZER_TYPES}


def test_the_example_of_data_of_ones_own_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "_modules", {})
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_package").mkdir()
    path = "my_package/wiki.py"
    (tmp_path / path).write_text(code_blocks("docs/adding-a-method.md", "python")[path])
    spec = {"type": "custom", "import": "my_package.wiki.WikiData", "page": "Trier"}
    data = TypeAdapter[Any](DataSpec).validate_python(spec)
    assert data.load().forget[0].answer == "Trier is a town."
