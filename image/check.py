"""Checks image/Dockerfile as far as that goes without a container engine.

    python image/check.py             # the rules below, in a moment
    python image/check.py --install   # then also the build stage's steps, in a clean virtual environment (minutes)
    python image/check.py --install --build-arg TORCH_CPU_INDEX=URL   # with another index, as docker build takes it

Rules: base images are pinned; what is copied exists and is not ignored; every installation is held to the lock or to an
exact version; nothing is fetched past the package managers; the last stage installs no Python packages, is offline
unless told otherwise, and ends as a user that is not root by number.

`--install` runs each RUN of the stage `build` for DEVICE=cpu in a temporary folder in place of /, compares what was
installed with the lock, resolves the packages of DEVICE=gpu without installing them and compares those, then runs the
image's own command and `obliviate demo --dry-run` with its environment and without a network. What needs root (the
system's packages) is left out and said so. It does not show that base images exist, nor that GPU packages run.
"""

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCKERFILE = ROOT / "image" / "Dockerfile"
PINNED = re.compile(r"@sha256:[0-9a-f]{64}$|:\d+\.\d+\.\d+[\w.-]*$")
# An installation that can only give one result.
HELD = re.compile(r"==|--constraint requirements/|--requirement requirements/|--no-deps")
UNREACHABLE = {f"{scheme}_proxy": "http://127.0.0.1:9" for scheme in ("http", "https", "all")}


@dataclass(frozen=True)
class Instruction:
    word: str  # FROM, RUN, ...
    rest: str  # in one line
    stage: str  # the name of the stage, or its number


def instructions(text: str) -> list[Instruction]:
    """Of a Dockerfile, continued lines joined; of its language only what this project's file uses."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    found: list[Instruction] = []
    stage, stages = "", 0
    for line in re.sub(r"\\\n", " ", "\n".join(lines)).splitlines():
        word, _, rest = " ".join(line.split()).partition(" ")
        if not word:
            continue
        if word == "FROM":
            name = re.search(r" AS (\S+)$", rest)
            stage, stages = name[1] if name else str(stages), stages + 1
        found.append(Instruction(word, rest, stage))
    return found


def arguments(found: list[Instruction]) -> dict[str, str]:
    """The defaults of all ARGs."""
    return dict(each.rest.split("=", 1) for each in found if each.word == "ARG")


def substituted(text: str, values: Mapping[str, str]) -> str:
    return re.sub(r"\$\{(\w+)\}", lambda match: values.get(match[1], match[0]), text)


def problems(text: str, ignore: str, root: Path = ROOT) -> Iterator[str]:
    """One line for each rule that is broken."""
    found = instructions(text)
    last = found[-1].stage
    values = arguments(found)
    for each in found:
        if each.word == "FROM":
            image = substituted(each.rest.partition(" ")[0], values)
            if not PINNED.search(image):
                yield f"FROM {image}: not pinned to a whole version or a digest"
        elif each.word == "COPY":
            yield from _copied(each, ignore, root, {other.stage for other in found})
        elif each.word == "RUN":
            yield from _run(each, last)
        elif each.word == "ADD":
            yield f"ADD {each.rest}: use COPY, which neither downloads nor unpacks"
    yield from _end(found, last)


def _copied(each: Instruction, ignore: str, root: Path, stages: set[str]) -> Iterator[str]:
    *sources, _ = each.rest.split()
    if sources[0].startswith("--from="):
        if (stage := sources[0].removeprefix("--from=")) not in stages:
            yield f"COPY {each.rest}: there is no stage {stage}"
        return
    for source in sources:
        if not (root / source).exists():
            yield f"COPY {source}: no such file"
        elif _ignored(source, ignore):
            yield f"COPY {source}: the dockerignore file leaves it out"


def _ignored(source: str, ignore: str) -> bool:
    """The last pattern that matches decides."""
    result = False
    for pattern in (line for line in ignore.splitlines() if line and not line.startswith("#")):
        if fnmatch(source, pattern.removeprefix("!")):
            result = not pattern.startswith("!")
    return result


def _run(each: Instruction, last: str) -> Iterator[str]:
    for command in re.split(r"&&|;", each.rest):
        if "pip install" in command:
            if not HELD.search(command):
                yield f"RUN {command.strip()}: held to no version; give a constraint or =="
            if each.stage == last:
                yield f"RUN {command.strip()}: the last stage takes its packages from another one"
        if re.search(r"\b(curl|wget|git clone)\b", command):
            yield f"RUN {command.strip()}: downloads past the package managers"


def _end(found: list[Instruction], last: str) -> Iterator[str]:
    if sum(each.word == "FROM" for each in found) < 2:
        yield "there is one stage only; build in another one"
    ending = [each for each in found if each.stage == last]
    users = [each.rest for each in ending if each.word == "USER"]
    if not users or not re.match(r"[1-9]\d*(:\d+)?$", users[-1]):
        yield f"USER {users[-1] if users else '(none)'}: give a number that is not 0, so that Kubernetes can tell"
    if environment(ending, last).get("HF_HUB_OFFLINE") != "1":
        yield "ENV HF_HUB_OFFLINE: set 1, so that nothing is downloaded when a container runs"


def environment(found: list[Instruction], stage: str) -> dict[str, str]:
    """What a stage's ENV lines set."""
    pairs = [pair for each in found if each.word == "ENV" and each.stage == stage for pair in shlex.split(each.rest)]
    return dict(pair.split("=", 1) for pair in pairs)


class Installation:
    """The build stage's steps with `folder` in place of /."""

    def __init__(self, found: list[Instruction], folder: Path, given: Mapping[str, str]) -> None:
        self._found, self._folder = found, folder
        self._last = found[-1].stage
        self._values = arguments(found) | {"DEVICE": "cpu", **given}
        places = [each.rest for each in found if each.word == "WORKDIR" and each.stage != self._last]
        self._places = [*places, *environment(found, "build").values()]  # absolute paths that the steps name

    def run(self) -> None:
        """Raises CalledProcessError where a step fails."""
        where = self._folder
        for each in self._found:
            if each.stage == self._last and each.word == "RUN":
                print(f"left out, needs root: RUN {each.rest}")
            elif each.stage == "build" and each.word == "WORKDIR":
                where = Path(self._inside(each.rest))
                where.mkdir(parents=True)
            elif each.stage == "build" and each.word == "COPY":
                self._copy(each.rest.split(), where)
            elif each.stage == "build" and each.word == "RUN":
                self._call(self._inside(substituted(each.rest, self._values)), where, environment(self._found, "build"))
        self._compare_with_lock()
        self._try()

    def _compare_with_lock(self) -> None:
        """Raises SystemExit for a package that the lock does not name in this version."""
        uv, python = (self._inside(f"/opt/venv/bin/{name}") for name in ("uv", "python"))
        installed = subprocess.check_output([uv, "pip", "freeze", "--python", python], text=True).splitlines()
        line = next(each.rest for each in self._found if "gpu.txt" in each.rest)
        options = line.partition("else")[2].partition("pyproject.toml")[2].strip(" ;fi")
        target = ["--python-version", "3.11", "--python-platform", "x86_64-manylinux_2_28", "--quiet", "--no-header"]
        command = [uv, "pip", "compile", "pyproject.toml", "--no-annotate", *target, *shlex.split(options)]
        resolved = subprocess.check_output(command, text=True, cwd=self._folder / "build").splitlines()
        for device, found in (("cpu", installed), ("gpu", resolved)):
            lock = (ROOT / "requirements" / f"{device}.txt").read_text(encoding="utf-8").splitlines()
            known = {*lock, *(ROOT / "requirements" / "models.txt").read_text(encoding="utf-8").splitlines()}
            others = [each for each in found if each not in known and not re.match(r"(pip|uv|obliviate)\b", each)]
            if others:
                raise SystemExit(f"{device}: not in the lock: {', '.join(others)}")
            print(f"{device}: all {len(found)} packages are those of the lock")

    def _copy(self, names: list[str], where: Path) -> None:
        *sources, target = names
        for source in sources:
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, where / target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / source, where / target)

    def _try(self) -> None:
        """The image's own command, and a plan of the demo: model files, data and code are all there."""
        command = next(each.rest for each in self._found if each.word == "CMD")
        variables = environment(self._found, self._last) | UNREACHABLE
        home = self._folder / "home"
        home.mkdir()
        for line in (shlex.join(words_of(command)), "obliviate demo --dry-run", "ray --version"):
            self._call(line, home, variables | {"HOME": str(home)})

    def _call(self, line: str, where: Path, variables: Mapping[str, str]) -> None:
        print(f"$ {line}", flush=True)
        inside = {name: self._inside(value) for name, value in variables.items()}
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
        subprocess.run(["sh", "-euc", line], cwd=where, env=kept | inside, check=True)

    def _inside(self, text: str) -> str:
        """Absolute paths of the image as paths of the folder."""
        for place in self._places:
            text = re.sub(rf"(?<![\w/]){re.escape(place)}(?=[/\s:]|$)", str(self._folder) + place, text)
        return text


def words_of(text: str) -> list[str]:
    """The words of a CMD in its exec form."""
    return re.findall(r'"([^"]*)"', text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--install", action="store_true", help="also run the build stage's steps")
    parser.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE", help="over the file's ARG")
    options = parser.parse_args()
    text = DOCKERFILE.read_text(encoding="utf-8")
    found = list(problems(text, DOCKERFILE.with_name("Dockerfile.dockerignore").read_text(encoding="utf-8")))
    for line in found:
        print(line, file=sys.stderr)
    if found:
        sys.exit(1)
    if options.install:
        with tempfile.TemporaryDirectory() as folder:
            given = dict(each.split("=", 1) for each in options.build_arg)
            Installation(instructions(text), Path(folder), given).run()
    print("image/Dockerfile: no problem found")


if __name__ == "__main__":
    main()
