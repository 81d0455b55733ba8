"""The nodes that the cluster that this runs on has, or may grow to: JSON on the last line of standard output.

`obliviate submit` runs it as a job of its own where the live nodes lack what a config asks for: only the cluster itself
can ask what its autoscaler may add.
"""

import json
from dataclasses import asdict

from obliviate.cluster import cluster_nodes, ensure_ray


def main() -> None:
    ensure_ray(None)
    print(json.dumps([asdict(each) for each in cluster_nodes()]))


if __name__ == "__main__":
    main()
