"""Expert parallelism: each rank holds some of the experts, and tokens travel to theirs and back (arXiv 2006.16668).

Shape suffixes as in model/transformer.py; E is this rank's experts, R = N·k assignments, M received ones.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from qwill.model import ops
from qwill.model.transformer import Experts
from qwill.train.collectives import exchange, exchange_rows, sum_of_all, to_all


class ParallelExperts(Experts):
    """Experts of which this rank holds E over `ep_group`, and of each its share of columns over `tp_group`."""

    ep_group: ProcessGroup | None
    tp_group: ProcessGroup | None
    ranks: int

    def routed(self, x_ND: Tensor, weight_Nk: Tensor, chosen_Nk: Tensor) -> Tensor:
        x_ND, weight_Nk = to_all(x_ND, self.tp_group), to_all(weight_Nk, self.tp_group)
        if self.ep_group is None:
            out_ND = super().routed(x_ND, weight_Nk, chosen_Nk)
        else:
            out_ND = self._travel(x_ND, weight_Nk, chosen_Nk, self.ep_group)
        return sum_of_all(out_ND, self.tp_group)

    def _travel(self, x_ND: Tensor, weight_Nk: Tensor, chosen_Nk: Tensor, group: ProcessGroup) -> Tensor:
        held, k = len(self.gate_up), chosen_Nk.shape[1]
        order_R = torch.argsort(chosen_Nk.flatten(), stable=True)
        token_R = order_R // k
        send_PE = torch.bincount(chosen_Nk.flatten(), minlength=held * self.ranks).view(self.ranks, held)
        receive_PE = exchange_rows(send_PE, [1] * self.ranks, [1] * self.ranks, group)
        send, receive = send_PE.sum(1).tolist(), receive_PE.sum(1).tolist()
        there_MD = exchange(x_ND[token_R], send, receive, group)
        # What came from one rank lies in the order of experts.
        expert_M = torch.arange(held, device=x_ND.device).repeat(self.ranks).repeat_interleave(receive_PE.flatten())
        if len(there_MD):
            one_M1 = there_MD.new_ones(len(there_MD), 1)
            y_MD = ops.experts(there_MD, self.gate_up, self.down, one_M1, expert_M[:, None])
        else:
            y_MD = there_MD + 0.0 * (self.gate_up.sum() + self.down.sum())  # experts that idle have gradient zero
        y_RD = exchange(y_MD, receive, send, group)
        return torch.zeros_like(x_ND).index_add(0, token_R, y_RD * weight_Nk.flatten()[order_R, None])
