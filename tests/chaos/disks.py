"""Small disks for one process and those that it starts: file systems in memory, mounted where nobody else sees them."""

import ctypes
import os
import subprocess
from pathlib import Path

NEW_MOUNTS, NEW_USER = 0x00020000, 0x10000000  # of unshare(2)
ROOMY_BYTES = 1 << 30


def own_mounts() -> None:
    """From now on what this process mounts is its own. Raises OSError where the machine does not allow it.

    Whoever is not root is made root of a name space; that takes a process of one thread.
    """
    user, group = os.geteuid(), os.getegid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(NEW_MOUNTS | (NEW_USER if user else 0)) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    if user:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    _mount("--make-rprivate", "/")


def mount(folder: Path, size: int = ROOMY_BYTES) -> None:
    _mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder))


def resize(folder: Path, size: int = ROOMY_BYTES) -> None:
    _mount("-o", f"remount,size={size}", str(folder))


def used(folder: Path) -> int:
    """Bytes of the disk that the folder is."""
    stat = os.statvfs(folder)
    return (stat.f_blocks - stat.f_bfree) * stat.f_frsize


def _mount(*arguments: str) -> None:
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise OSError(done.stderr.strip())


def allowed() -> bool:
    """Whether a command may have mounts of its own."""
    return subprocess.run(["unshare", "--user", "--map-root-user", "--mount", "true"], check=False).returncode == 0
