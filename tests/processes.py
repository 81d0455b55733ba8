"""Processes below this one, by what their command line says."""

import psutil


def command(process: psutil.Process) -> str:
    """Its command line; empty of one that has ended, though nobody has asked yet how."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


def descendants(title: str, root: psutil.Process | None = None) -> list[psutil.Process]:
    """Those below `root`, this process unless given, whose command line has `title` in it."""
    return [each for each in (root or psutil.Process()).children(recursive=True) if title in command(each)]
