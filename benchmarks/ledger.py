"""What does a question to the ledger of deletion requests cost when it holds a hundred thousand, beside a thousand?

Two ledgers in SQLite files, filled alike (three texts a request; of a hundred requests ninety are fulfilled, nine have
failed, and one waits). Every question that a command asks is put to both in turn, round after round, in one process;
the first round warms up and is left out. Requests are added to both ledgers in batches of 200, and lists show 100.
`waiting` is a list while another process's transaction has written and not ended.

It would count against us if any question took more than 50 ms on the large ledger, or adding a request more than twice
as long as on the small one.

JSON keys, for each question: NAME_s on the large ledger, NAME_cpu_s the processor's part of it, and ratio_NAME, the
large one's time over the small one's; all medians, the ratio with _low and _high over the rounds. slowest_s and
slowest_cpu_s are the largest. The time of `add` is of one request.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from statistics import median
from typing import NamedTuple

from sqlalchemy import insert, text

from obliviate_recipes.requests.ledger import Asked, Ledger
from obliviate_recipes.requests.states import BatchState, RequestState
from obliviate_recipes.requests.tables import aliases, batches, requests, texts

ALIAS = "production"
SMALL, LARGE = 1_000, 100_000
TEXTS, IN_BATCH, ADDED, SHOWN = 3, 20, 200, 100
DATA = 4_000  # rows of the data: a run asks which of them are forgotten
FULFILLED, FAILED, PENDING = RequestState.FULFILLED, RequestState.FAILED, RequestState.PENDING


def hash_of(request: int, number: int) -> str:
    return sha256(f"{request} {number}".encode()).hexdigest()


class Took(NamedTuple):
    wall_s: float
    cpu_s: float


class Filled:
    """A ledger with `size` requests, and the questions to it."""

    def __init__(self, path: Path, size: int) -> None:
        self.ledger, self.size, self.random = Ledger(str(path), create=True), size, random.Random(0)
        self.writer = Ledger(str(path))
        self.next = size + 1
        number = size // IN_BATCH
        ended = [
            {
                "id": each, "alias": ALIAS, "state": BatchState.FULFILLED, "owner": "", "lease_until_s": 0.0,
                "claimed_s": float(each), "base": f"m{each - 1}", "model": f"m{each}", "promoted_s": float(each),
            }
            for each in range(1, number + 1)
        ]  # fmt: skip
        rows = []
        for each in range(1, size + 1):
            state = PENDING if each % 100 == 0 else FAILED if each % 10 == 0 else FULFILLED
            rows.append({
                "id": each, "alias": ALIAS, "requester": f"user-{each}", "received_s": float(each),
                "fingerprint": f"f{each}", "state": state, "alone": False,
                "batch": None if state == PENDING else min(1 + each // IN_BATCH, number),
                "certificate": f"/c/{each}" if state == FULFILLED else None,
            })  # fmt: skip
        hashes = [{"request": each, "hash": hash_of(each, i)} for each in range(1, size + 1) for i in range(TEXTS)]
        with self.ledger.database.writing() as connection:
            connection.execute(insert(batches), ended)
            connection.execute(insert(aliases), [{"name": ALIAS, "model": f"m{number}", "batch": number}])
            connection.execute(insert(requests), rows)
            connection.execute(insert(texts), hashes)

    def ask(self, name: str) -> Took:
        """Of `add`, for each request."""
        one = self.random.randrange(1, self.size)
        some = [hash_of(self.random.randrange(2 * self.size), 0) for _ in range(DATA)]
        asked = [
            Asked(f"user-{each}", [hash_of(each, i) for i in range(TEXTS)])
            for each in range(self.next, self.next + ADDED)
        ]
        ledger = self.ledger
        questions: dict[str, Callable[[], object]] = {
            "list": lambda: (ledger.requests(ALIAS, last=SHOWN), ledger.counts(ALIAS), ledger.model_of(ALIAS)),
            "waiting": lambda: (ledger.requests(ALIAS, last=SHOWN), ledger.counts(ALIAS), ledger.model_of(ALIAS)),
            "status": lambda: ledger.request(ALIAS, one),
            "waiting_too": lambda: ledger.waiting_too(ALIAS, one),
            "forgotten": lambda: ledger.forgotten(ALIAS, some),
            "met": lambda: ledger.met(ALIAS),
            "texts_waiting": lambda: ledger.texts_waiting(ALIAS),
            "claim": lambda: ledger.claim(ALIAS, "me", 0, due_after_s=0, most=IN_BATCH),
            "add_one": lambda: ledger.add(ALIAS, "m0", f"more-{one}-{time.monotonic_ns()}", [hash_of(-one, 0)]),
            "add": lambda: ledger.add_all(ALIAS, "m0", asked),
        }
        question = questions[name]
        if name == "waiting":
            with self.writer.database.writing() as connection:
                connection.execute(text("UPDATE requests SET reason = 'other' WHERE id = 1"))
                return timed(question)
        took = timed(question)
        if name == "add":
            self.next += ADDED
            took = Took(took.wall_s / ADDED, took.cpu_s / ADDED)
        return took


NAMES = (
    "list", "waiting", "status", "waiting_too", "forgotten", "met", "texts_waiting", "claim", "add_one", "add",
)  # fmt: skip


def timed(question: Callable[[], object]) -> Took:
    began_s, cpu_s = time.perf_counter(), time.process_time()
    question()
    return Took(time.perf_counter() - began_s, time.process_time() - cpu_s)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="five rounds instead of twenty")
    parser.add_argument(
        "--json", action="store_true", help="accepted for all benchmarks: progress is on standard error"
    )
    rounds = 5 if parser.parse_args().quick else 20
    found: dict[str, list[tuple[Took, Took]]] = {name: [] for name in NAMES}
    with tempfile.TemporaryDirectory() as folder:
        small, large = (Filled(Path(folder) / f"{size}.sqlite", size) for size in (SMALL, LARGE))
        print("filled", file=sys.stderr, flush=True)
        for turn in range(rounds + 1):
            for name in NAMES:
                pair = small.ask(name), large.ask(name)
                print(
                    f"{name}: {1000 * pair[0].wall_s:.2f} and {1000 * pair[1].wall_s:.2f} ms",
                    file=sys.stderr,
                    flush=True,
                )
                if turn:
                    found[name].append(pair)
    figures: dict[str, float] = {}
    for name, pairs in found.items():
        ratios = [large.wall_s / small.wall_s for small, large in pairs]
        figures[f"{name}_s"] = median(large.wall_s for _, large in pairs)
        figures[f"{name}_cpu_s"] = median(large.cpu_s for _, large in pairs)
        figures[f"ratio_{name}"] = median(ratios)
        figures[f"ratio_{name}_low"], figures[f"ratio_{name}_high"] = min(ratios), max(ratios)
    for kind in ("s", "cpu_s"):
        figures[f"slowest_{kind}"] = max(figures[f"{name}_{kind}"] for name in NAMES)
    print(json.dumps({key: float(f"{value:.4g}") for key, value in figures.items()}))


if __name__ == "__main__":
    main()
