"""What the cluster that this runs on has of each resource, or may grow to: JSON on the last line of standard output.

`obliviate submit` runs it as a job of its own where the live nodes lack what a config asks for: only the cluster itself
knows what its autoscaler may add.
"""

import json

from obliviate.cluster import capacity, ensure_ray


def main() -> None:
    ensure_ray(None)
    print(json.dumps(capacity()))


if __name__ == "__main__":
    main()
