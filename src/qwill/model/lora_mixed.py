"""Several adapters on one model at once: each token of a batch has its own, or none.

Outside of such a pass the model is as it was. The products of an adapter are computed over all of its tokens together.

Shape suffixes as in lora.py; M = N·k assignments of tokens to experts, sorted by expert.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from qwill.base.errors import ModelError
from qwill.model.lora import Adapter, LowRank, Updates, targets_of
from qwill.model.transformer import Experts, Linear, Transformer


class Mixed(Updates):
    """What every adapter adds to one fused projection, by the adapter's number."""

    adapter_N: Tensor | None = None  # of the pass

    def forward(
        self, x_NI: Tensor, out_NC: Tensor, starts: Tensor | None = None, token_M: Tensor | None = None
    ) -> Tensor:
        """`out_NC` with each row's own updates added; `token_M` says which token each row is of, where rows are of
        experts."""
        assert self.adapter_N is not None
        adapter_N = self.adapter_N if token_M is None else self.adapter_N[token_M]
        for number, updates in self.items():
            rows = (adapter_N == int(number)).nonzero()[:, 0]
            if len(rows):
                mine = None if starts is None else torch.searchsorted(rows, starts)
                out_NC = out_NC.index_copy(0, rows, updates(x_NI[rows], out_NC[rows], mine))
        return out_NC


class MixedAdapters:
    """The adapters of a model by number. Raises ModelError when there is one on it in the ordinary way."""

    def __init__(self, model: Transformer) -> None:
        self._model = model
        self._mixed: dict[tuple[str, str], Mixed] = {}  # (module, its weight)

    def put(self, number: int, adapter: Adapter) -> None:
        """Have one more. Its parts take the model's device and the type of its floats, float32 at least.
        Raises ModelError for the adapter of another model."""
        targets, embedding = targets_of(self._model, adapter), self._model.embed_tokens.weight
        if any(getattr(module, "updates", None) is not None for module in self._model.modules()):
            raise ModelError("the model has an adapter on it already; detach that first.")
        dtype = torch.float64 if embedding.dtype == torch.float64 else torch.float32
        for name, part in adapter.parts.items():
            mixed = self._mixed.setdefault((targets[name].owner, targets[name].attribute), Mixed())
            if str(number) not in mixed:
                mixed[str(number)] = Updates()
            own = mixed[str(number)]
            assert isinstance(own, Updates)
            # Around the same A and B: the adapter may be in training.
            same = LowRank(part.a.detach(), part.b.detach(), part.scale, part.rows_O).requires_grad_(False)
            own[name.rpartition(".")[2]] = same.to(embedding.device, dtype)

    def remove(self, number: int) -> None:
        for mixed in self._mixed.values():
            if str(number) in mixed:
                del mixed[str(number)]

    @contextmanager
    def on(self, adapter_N: Tensor) -> Iterator[None]:
        """Passes in here are of tokens with these adapters (int64 numbers, −1: none, on the model's device)."""
        chosen = {place: mixed for place, mixed in self._mixed.items() if len(mixed)}
        owners = {owner: self._model.get_submodule(owner) for owner, _ in chosen}
        try:
            for (owner, attribute), mixed in chosen.items():
                mixed.adapter_N, module = adapter_N, owners[owner]
                if isinstance(module, Linear):
                    module.updates = mixed
                else:
                    assert isinstance(module, Experts)
                    if module.updates is None:
                        module.updates = nn.ModuleDict()
                    module.updates[attribute] = mixed
            yield
        finally:
            for module in owners.values():
                assert isinstance(module, Linear | Experts)
                module.updates = None
