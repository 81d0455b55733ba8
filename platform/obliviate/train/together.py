"""What all workers of a training do as one: where one of them can't, all know, and none waits for it further on."""

from collections.abc import Callable

import torch.distributed as dist
import torch.distributed.checkpoint as dcp

from obliviate.errors import UserError


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
