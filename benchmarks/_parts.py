"""Benchmarks of several parts, of which some may be left out."""

import argparse
from collections.abc import Sequence


def add_only(parser: argparse.ArgumentParser, parts: Sequence[str]) -> None:
    """`--only`, a list of the chosen parts; without it, all."""

    def chosen(text: str) -> list[str]:
        only = text.split(",")
        if unknown := set(only) - set(parts):
            raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: no such part; known: {', '.join(parts)}")
        return only

    parser.add_argument("--only", type=chosen, default=",".join(parts), help=f"parts, with commas: {', '.join(parts)}")
