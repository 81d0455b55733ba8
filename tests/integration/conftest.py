"""One Ray for all integration tests: its own, never one that happens to run on the machine.

One Chromium a file, and one bucket.
"""

from collections.abc import Iterator

import pytest

from browser import browser, open_site, page, site  # noqa: F401
from s3 import bucket, cache  # noqa: F401


@pytest.fixture(scope="session")
def ray_local() -> Iterator[None]:
    import ray

    from obliviate.cluster import ensure_ray

    ensure_ray("local")
    yield
    ray.shutdown()
