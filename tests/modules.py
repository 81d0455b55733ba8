"""What importing a module loads."""

import os
import subprocess
import sys
from collections.abc import Sequence


def loaded_by(module: str, names: Sequence[str]) -> list[str]:
    """Which of `names` are there after `module` alone was imported in a new process."""
    code = f"import sys, {module}; print(*(name for name in {tuple(names)} if name in sys.modules))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=240, check=True, env=environment
    )
    return done.stdout.split()
