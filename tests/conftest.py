"""Settings of all tests."""

import os

from hypothesis import HealthCheck, settings

from once import once  # noqa: F401
from wheel import installed  # noqa: F401

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch loads: see obliviate.cluster.THREADS_WAIT

# No test judges times: a slow machine is no failure.
settings.register_profile("any_machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any_machine")
