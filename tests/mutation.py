"""What `make mutants` does around mutmut: `stage` makes the copy of the tree that it works in, `table` counts.

mutmut names a module by its path below `src/`, and leaves decorated functions alone: properties, context managers and
cached functions. So in the copy the packages lie side by side in `src/`, and a function is decorated behind its
definition, `needs = property(needs)`, which is the same thing in Python and is plain to mutmut. It is not cached there:
mutmut runs the tests that it saw call a function, and of a cached one it would see the first alone.
"""

import json
import shutil
import sys
import tomllib
from collections import Counter
from pathlib import Path

import libcst as cst
import libcst.matchers as m
from mutmut.stats import status_by_exit_code

ROOT = Path(__file__).parents[1]
STAGE = ROOT / "mutants"
CACHE = m.Name("cache") | m.Name("lru_cache")
UNSURE = {"survived", "no tests", "suspicious", "skipped", "not checked"}


class DecoratedBehind(cst.CSTTransformer):
    def leave_FunctionDef(
        self, original_node: cst.FunctionDef, updated_node: cst.FunctionDef
    ) -> cst.FunctionDef | cst.FlattenSentinel[cst.BaseStatement]:
        value: cst.BaseExpression = updated_node.name
        for each in reversed(updated_node.decorators):
            if not m.matches(each.decorator, CACHE | m.Call(CACHE)):
                value = cst.Call(each.decorator, [cst.Arg(value)])
        plain = updated_node.with_changes(decorators=())
        if value is updated_node.name:
            return plain
        assign = cst.Assign([cst.AssignTarget(updated_node.name)], value)
        return cst.FlattenSentinel([plain, cst.SimpleStatementLine([assign])])


def stage() -> None:
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    shutil.rmtree(STAGE, ignore_errors=True)
    unwanted = shutil.ignore_patterns("__pycache__", "*.pyc")
    for package in tools["hatch"]["build"]["targets"]["wheel"]["packages"]:
        shutil.copytree(ROOT / package, STAGE / "src" / Path(package).name, ignore=unwanted)
    for name in ("tests", *tools["mutmut"]["also_copy"]):
        shutil.copytree(ROOT / name, STAGE / name, ignore=unwanted)
    shutil.copy(ROOT / "pyproject.toml", STAGE)
    for path in (path for pattern in tools["mutmut"]["only_mutate"] for path in STAGE.glob(pattern)):
        module = cst.parse_module(path.read_text(encoding="utf-8"))
        path.write_text(module.visit(DecoratedBehind()).code, encoding="utf-8")


def table() -> None:
    found: dict[str, Counter[str]] = {}
    alive: list[str] = []
    for meta in sorted(STAGE.glob("mutants/src/**/*.meta")):
        results = json.loads(meta.read_text(encoding="utf-8"))["exit_code_by_key"]
        statuses = {name: status_by_exit_code[code] for name, code in results.items()}
        found[str(meta.relative_to(STAGE / "mutants" / "src"))[: -len(".py.meta")]] = Counter(statuses.values())
        alive += [f"{status}: {name}" for name, status in statuses.items() if status in UNSURE]
    print(*alive, sep="\n")
    print("| module | mutants | killed | share |\n|---|---|---|---|")
    for module, counts in [*found.items(), ("all", sum(found.values(), Counter()))]:
        if total := counts.total():
            killed = total - sum(counts[status] for status in UNSURE)
            print(f"| {module} | {total} | {killed} | {killed / total:.1%} |")


if __name__ == "__main__":
    {"stage": stage, "table": table}[sys.argv[1]]()
