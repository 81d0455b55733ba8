"""The leading components of what layers put out for the forget set, which minor-component unlearning (MCU;
arXiv:2605.11685) takes out: the direction of the mean, and those in which the tokens vary most around it.

They are found once, from the starting model. Published code projects the mean and the singular vectors out one after
the other, and refreshes them at every step for one of its two kinds; here they are made orthonormal together.

Shapes: B texts, T tokens, N wanted tokens, D numbers that a layer puts out, K components.
"""

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor

from obliviate.data.schedule import Item
from obliviate.methods import Pass, Positions
from obliviate.scoring import Activation, AnyStat
from obliviate.train.batch import Texts, collate
from obliviate.train.model import ScoredModel
from obliviate.train.together import turns_of


@torch.no_grad()
def leading_components(
    model: ScoredModel,
    texts: Texts,
    rows: int,
    stats: Mapping[AnyStat, Positions],
    *,
    size: int,
    max_length: int,
    device: torch.device,
) -> dict[Activation, Tensor]:
    """Of each activation of the forget texts that is wanted without some: orthonormal [D, K], the same on every worker.

    All of them call it, and share the rows. D^2 numbers are held for each layer.
    """
    wanted = {stat: at for stat, at in stats.items() if isinstance(stat, Activation) and stat.without}
    if not wanted:
        return {}
    plain = {Activation(stat.layer): at for stat, at in wanted.items()}
    sums: dict[Activation, Tensor] = {}
    model.eval()
    for part, counted in turns_of([Item(row) for row in range(rows)], size):
        batch = collate(texts, part, {Pass.FORGET: stats}, max_length).to(device)
        everything = (batch.rows[Pass.FORGET], batch.wanted_BT(Pass.FORGET, Positions.SEQUENCE), tuple(plain))
        out = model(batch.input_ids_BT, batch.attention_BT, {str(Pass.FORGET): everything}, {})
        for stat, at in plain.items():
            x_ND = out[f"{Pass.FORGET}/{stat}"][batch.wanted_BT(Pass.FORGET, at)].double()
            # With a one beside every state, X^T X holds their sum and their number as well.
            x_ND = torch.cat([x_ND, torch.ones_like(x_ND[:, :1])], -1) * counted
            sums[stat] = sums.get(stat, 0) + x_ND.T @ x_ND
    model.train()
    for gram in sums.values():
        dist.all_reduce(gram)
    return {stat: components(sums[Activation(stat.layer)], stat.without) for stat in wanted}


def components(gram: Tensor, count: int) -> Tensor:
    """Orthonormal [D, K], float32: a basis of the mean's direction and of the `count` - 1 in which states vary most
    around it; fewer where they span no more. `gram` is X^T X [D + 1, D + 1] of states with a one beside them."""
    tokens, sum_D, gram_DD = gram[-1, -1], gram[-1, :-1], gram[:-1, :-1]
    mean_D = sum_D / tokens
    values_D, vectors_DD = torch.linalg.eigh(gram_DD / tokens - torch.outer(mean_D, mean_D))
    found_DK: Tensor = vectors_DD[:, values_D > 1e-9 * gram_DD.trace() / tokens].flip(1)[:, : count - 1]
    beside_D = mean_D - found_DK @ (found_DK.T @ mean_D)
    if beside_D.norm() > 1e-6 * mean_D.norm():
        found_DK = torch.cat([beside_D[:, None] / beside_D.norm(), found_DK], 1)
    return found_DK.float()
