"""What does a user wait for before a command says its first word, and what of it is imports?

Each command is a process of its own with one thread, round after round in turn; the first round warms the disk's cache
and is left out. `plan` and `dry_run` are of the built-in demo, whose model is an installed package.

It would count against us if a command that only reads (methods, a mistake in a config, a certificate, a list of
requests) took more than 0.8 s of CPU time, or a plan more than 5 s.

JSON keys, for each command: NAME_cpu_s, user and system time of the process, the median, with _low and _high over the
rounds; NAME_imports, of one more process the packages whose modules took longest to import, in milliseconds.
"""

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).parents[1]
DEMO = ROOT / "platform" / "obliviate_cli" / "demo.yaml"
REQUESTS = ROOT / "configs" / "requests" / "people.yaml"
IMPORT = re.compile(r"import time: +(\d+) \| +\d+ \| +(\S+)$")
LARGEST = 5
COMMANDS = {
    "help": ["--help"],
    "methods": ["methods"],
    "wrong_file": ["compare", "nothing.yaml"],
    "wrong_key": ["compare", str(DEMO), "optim.epoch=3"],
    "verify": ["certificate", "verify", "nothing.json"],
    "requests": ["request", "list", str(REQUESTS), "model.source=nothing"],
    "plan": ["plan", str(DEMO)],
    "dry_run": ["compare", str(DEMO), "--dry-run"],
}


def started(arguments: list[str], folder: str, *options: str) -> tuple[float, str]:
    """CPU seconds, and what it wrote to standard error."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, *options, "-m", "obliviate_cli", *arguments],
        capture_output=True, text=True, check=False, cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if "Traceback" in done.stderr:
        raise RuntimeError(f"{' '.join(arguments)}: {done.stderr}")
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime, done.stderr


def largest_imports(errors: str) -> dict[str, float]:
    """Of what `-X importtime` writes."""
    own: dict[str, float] = {}
    for line in errors.splitlines():
        if found := IMPORT.match(line):
            package = found[2].partition(".")[0]
            own[package] = own.get(package, 0.0) + int(found[1]) / 1000
    return dict(sorted(own.items(), key=lambda each: -each[1])[:LARGEST])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three rounds instead of ten")
    parser.add_argument(
        "--json", action="store_true", help="accepted for all benchmarks: progress is on standard error"
    )
    rounds = 3 if parser.parse_args().quick else 10
    found: dict[str, list[float]] = {name: [] for name in COMMANDS}
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        started(["request", "init", str(REQUESTS), "model.source=nothing"], folder)
        for turn in range(rounds + 1):
            for name, arguments in COMMANDS.items():
                cpu_s, _ = started(arguments, folder)
                print(f"{name}: {cpu_s:.2f} s", file=sys.stderr, flush=True)
                if turn:
                    found[name].append(cpu_s)
        for name, arguments in COMMANDS.items():
            each = found[name]
            figures[f"{name}_cpu_s"] = median(each)
            figures[f"{name}_cpu_s_low"], figures[f"{name}_cpu_s_high"] = min(each), max(each)
            figures[f"{name}_imports"] = largest_imports(started(arguments, folder, "-X", "importtime")[1])
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
