"""`obliviate plan`: what a config costs on a cluster, and what limits it first, before anything is started."""

from dataclasses import dataclass
from math import inf
from pathlib import Path

from rich.console import Console

from obliviate.config import RunSpec
from obliviate.console_table import ConsoleTable
from obliviate.errors import UserError
from obliviate.nodes import Nodes, total
from obliviate_cli.console import open_console
from obliviate_cli.jobs.needs import check_fits
from obliviate_recipes.catalogue import load, recipe_of
from obliviate_recipes.costs.estimate import CURES, Part
from obliviate_recipes.costs.hardware import GPUS, Cluster
from obliviate_recipes.costs.manifest import nodes_of, read_groups

SURE = 1.5  # between the largest and the smallest utilization that benchmarks/cost_model.py finds


@dataclass(frozen=True)
class Offer:
    """What the user says there is."""

    gpu: str
    gpus: int | None  # None: as many as the config asks for
    gpus_per_node: int
    network_gbit: float  # per second, of a node
    utilization: float
    manifest: Path | None


def plan(path: Path, overrides: list[str], offer: Offer) -> None:
    """Raises UserError for a config that asks for more than there is."""
    recipe = load(recipe_of(path), path, overrides)
    cluster, nodes = _cluster(recipe.config, offer)
    check_fits(recipe.config, nodes)
    found, requested, console = recipe.estimate(cluster), recipe.requested(), open_console()
    if not found and not requested:
        raise UserError("plan: no model is trained or asked on GPUs, and the rest takes seconds")
    if found:
        show(found, cluster, offer.gpu, total(nodes)["GPU"], console)
        slow, quick = (recipe.estimate(cluster.faster(times)) for times in (1 / SURE, SURE))
        console.print(how_sure(quick, slow))
    for each in requested:
        console.print(str(each))
    costs = [each.cost for each in requested if each.cost is not None]
    if len(costs) > 1:
        console.print(f"hosted models: {sum(costs):.4g} at most")


def _cluster(config: RunSpec, offer: Offer) -> tuple[Cluster, list[Nodes]]:
    """The cluster, and the nodes that it is made of."""
    if offer.gpu not in GPUS:
        raise UserError(f"--gpu {offer.gpu}: is not known; known: {', '.join(GPUS)}")
    gpu = GPUS[offer.gpu]
    figures = {"network_bytes_per_s": offer.network_gbit * 1e9 / 8, "utilization": offer.utilization}
    if offer.manifest is None:
        whole, rest = (inf, 0) if offer.gpus is None else divmod(offer.gpus, offer.gpus_per_node)
        nodes = [Nodes(whole, inf, offer.gpus_per_node), Nodes(1, inf, rest)]
        return Cluster(gpu, offer.gpus_per_node, **figures), [each for each in nodes if each.count]
    groups = read_groups(offer.manifest)
    nodes = nodes_of(groups)
    with_gpus = [group for group in groups if group.gpus]
    if not with_gpus:
        check_fits(config, nodes)  # a config that asks for GPUs in so many words is told by their key
        names = ", ".join(group.name for group in groups) or "there is none"
        raise UserError(f"{offer.manifest}: no worker group has nvidia.com/gpu ({names}); only GPUs are estimated")
    node = max(with_gpus, key=lambda group: group.gpus)
    return Cluster(gpu, round(node.gpus), host_memory_bytes=node.memory_bytes, **figures), nodes


def show(found: list[Part], cluster: Cluster, gpu: str, gpus: float, console: Console) -> None:
    count = "" if gpus == inf else f" x {gpus:g}"
    console.print(
        f"{gpu}{count}, {cluster.gpus_per_node} to a node, {cluster.utilization:.0%} of their "
        f"{cluster.gpu.flops_per_s / 1e12:.0f} TFLOP/s used: an estimate, whose terms are in docs/scaling.md"
    )
    table = ConsoleTable()
    for title in ("stage", "times", "tokens", "PFLOP", "sent", "GPUs", "minutes", "GPU h", "GB/GPU", "limited by"):
        table.add_column(title, justify="left" if title in ("stage", "limited by") else "right")
    for each in found:
        table.add_row(
            each.title,
            str(each.repeats) + (f" ({each.at_a_time} at once)" if each.at_a_time > 1 else ""),
            f"{each.tokens:.3g}",
            f"{each.flops / 1e15:.3g}",
            f"{each.network_bytes / 1e9:.3g} GB",
            f"{each.gpus:g}",
            f"{each.s / 60:.1f}" if each.fits else "–",
            f"{each.gpu_hours:.2f}" if each.fits else "–",
            f"{each.memory_bytes / 1e9:.1f}",
            each.limit,
        )
    console.print(table)
    for line in conclusions(found, cluster, gpus):
        console.print(line)


def how_sure(quick: list[Part], slow: list[Part]) -> str:
    """Of the same stages with higher and with lower rates."""
    low, high = (sum(each.s for each in parts if each.fits) / 60 for parts in (quick, slow))
    return (
        f"how sure: tokens, FLOPs and bytes are counted; with rates {SURE:g} times as high or as low it takes "
        f"{low:.1f} to {high:.1f} minutes. No rate was measured on a GPU: give --utilization once you have"
    )


def conclusions(found: list[Part], cluster: Cluster, gpus: float) -> list[str]:
    """Totals, what does not fit, and the first bottleneck: what limits the stage that takes longest."""
    lines = [
        f"{each.title}: does not fit: {_too_much(each, cluster)}; {CURES[each.limit]}"
        for each in found
        if not each.fits
    ]
    fitting = [each for each in found if each.fits]
    if fitting:
        hours, minutes = sum(each.gpu_hours for each in fitting), sum(each.s for each in fitting) / 60
        lines.append(f"{minutes:.1f} minutes, {hours:.2f} GPU hours" + (" without what does not fit" if lines else ""))
        longest = max(fitting, key=lambda each: each.s)
        lines.append(f"first bottleneck: {longest.limit}, of {longest.title}; it helps: {CURES[longest.limit]}")
    busy = max(each.gpus * min(each.at_a_time, each.repeats) for each in found)
    if busy < gpus < inf:
        unused = f"{gpus - busy:g} of {gpus:g} GPUs are never used"
        lines.append(f"{unused}: give more workers, more replicas, or more runs at a time")
    return lines


def _too_much(each: Part, cluster: Cluster) -> str:
    if each.limit == "GPU memory":
        of = f"{cluster.usable_bytes / 1e9:.0f} of its {cluster.gpu.memory_bytes / 1e9:.0f} GB"
        return f"{each.memory_bytes / 1e9:.0f} GB on a GPU with room for {of}"
    return f"{each.host_bytes / 1e9:.0f} GB on a node with {cluster.host_memory_bytes / 1e9:.0f} GB"
