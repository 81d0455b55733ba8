"""What all workers of a training do as one: where one of them can't, all know, and none waits for it further on."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

import torch.distributed as dist
import torch.distributed.checkpoint as dcp

from obliviate.errors import UserError

T = TypeVar("T")


def together(action: Callable[[], object], further: tuple[type[Exception], ...] = ()) -> str:
    """Every worker acts; the first one's reason why it could not, the same on all of them, or "" where all could.

    `further`: kinds of error that are such a reason, beside those of files and of users.
    """
    failure = ""
    reasons: tuple[type[BaseException], ...] = (OSError, UserError, dcp.api.CheckpointException, *further)
    try:
        action()
    except reasons as error:
        failure = " ".join(str(error).split())[-300:] or type(error).__name__
    failures: list[str] = [""] * dist.get_world_size()
    dist.all_gather_object(failures, failure)
    return next(filter(None, failures), "")


def parts_of(count: int, size: int) -> list[list[int]]:
    """Of that many things those of this worker, at most `size` at a time. All workers have equally many parts, because
    with sharded weights they make the same forward passes: one with fewer things has its last part again."""
    rank, world = dist.get_rank(), dist.get_world_size()
    mine = list(range(rank, count, world)) or [count - 1]
    turns = range(-(-count // (world * size)))
    return [mine[turn * size : (turn + 1) * size] or mine[-1:] for turn in turns]


def turns_of(things: Sequence[T], size: int) -> Iterator[tuple[Sequence[T], bool]]:
    """Of sums over all workers: this worker's things of each turn, at most `size`, and whether they count. All workers
    have equally many turns; one that has nothing left repeats the first thing without counting it."""
    rank, world = dist.get_rank(), dist.get_world_size()
    for turn in range(-(-len(things) // (size * world))):
        mine = things[(turn * world + rank) * size :][:size]
        yield mine or things[:1], bool(mine)


def everyones(found: Mapping[int, T]) -> dict[int, T]:
    """What each worker has found of its own things, on all of them, in order."""
    everything: list[Mapping[int, T]] = [{}] * dist.get_world_size()
    dist.all_gather_object(everything, found)
    return dict(sorted((index, each) for part in everything for index, each in part.items()))
