"""A model cut over a mesh, and the sums over ranks that make its training step that of one process.

The mathematics stays in model/transformer.py: modules are replaced by forms that hold a share (tensor_parallel.py,
expert_parallel.py, context_parallel.py), FSDP2 wraps what is left, and after the backward pass each gradient is summed
over the axes whose ranks saw other tokens. The loss is a sum of weighted token losses, with weights that sum to 1 over
the whole step, so there are sums everywhere and no means of means.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from qwill.base.errors import ConfigError
from qwill.model.batch import Batch
from qwill.model.cache import KVCache
from qwill.model.transformer import Attention, Experts, FeedForward, GatedDeltaNet, Linear, Output, Transformer
from qwill.train.collectives import all_sum, exchange_rows, sum_in_place
from qwill.train.context_parallel import ContextAttention, ContextBatch, ContextDeltaNet, context_batch, take
from qwill.train.expert_parallel import ParallelExperts
from qwill.train.mesh import AXES, DATA, TOKENS, Mesh, check_mesh
from qwill.train.optim import row_parts
from qwill.train.ranks import current
from qwill.train.settings import StepConfig
from qwill.train.sharded_checkpoint import ShardedCheckpoints
from qwill.train.shards import Cut, Ranges, boxes, ranges_of, shape_of
from qwill.train.step import StepData, StepResult, backward, split
from qwill.train.tensor_parallel import ColumnLinear, RowLinear, VocabularyEmbedding, cross_entropy


class ParallelTransformer(Transformer):
    """A Transformer whose parts hold shares; called like one, with whole batches or a rank's tokens of them."""

    mesh: Mesh

    def forward(self, batch: Batch, cache: KVCache | None = None) -> Output:
        if isinstance(batch, ContextBatch):
            cache = ContextAttention(self.mesh.group("cp"))  # type: ignore[assignment]
        return super().forward(batch, cache)

    def cross_entropy(self, hidden_ND: Tensor, targets_N: Tensor, weight_N: Tensor) -> tuple[Tensor, Tensor]:
        if self.mesh.sizes["tp"] == 1:
            return super().cross_entropy(hidden_ND, targets_N, weight_N)
        head_VD = self.head_weight_VD
        first = len(head_VD) * self.mesh.index("tp")
        return cross_entropy(hidden_ND, head_VD, targets_N, weight_N, first, self.mesh.group("tp"))


@dataclass
class Shard:
    """This rank's part of one parameter. `local` shares its memory; `cuts` say which part of `whole` (a shape) it is;
    `sums` are the axes over which its gradient still has to be summed."""

    name: str
    parameter: nn.Parameter
    local: nn.Parameter
    whole: tuple[int, ...]
    cuts: tuple[Cut, ...]
    sums: tuple[str, ...]

    @property
    def idle(self) -> bool:
        """Whether nothing is trained of it: frozen, or of the head that predicts ahead."""
        return not self.local.requires_grad or self.name.startswith("mtp.")

    @property
    def axes(self) -> tuple[str, ...]:
        return tuple(a for a in AXES if any(a in c.axes for c in self.cuts))

    def ranges(self, mesh: Mesh, place: dict[str, int] | None = None) -> Ranges:
        return ranges_of(self.whole, self.cuts, place or mesh.at, mesh.sizes)


@dataclass
class Parallel:
    """A model on a mesh. `fill`: steps differ in size, so where there are too few sequences a rank without one takes
    part with another's, which counts for nothing."""

    model: Transformer
    mesh: Mesh
    shards: list[Shard]
    fill: bool = False

    def deal(self, data: StepData, micro_batches: int) -> list[StepData]:
        """This rank's part of each micro-batch: its sequences, and of them its tokens.

        Raises ConfigError where a step has too few sequences for every rank to get some of each micro-batch, and ranks
        aren't to be filled.
        """
        ranks, rank, parts = self.mesh.size(*DATA), self.mesh.index(*DATA), split(data, micro_batches)
        dealt = [split(part, ranks) for part in parts]
        if self.fill:
            dealt = [d + [filler(d[0])] * (ranks - len(d)) for d in dealt]
        elif len(parts) < micro_batches or any(len(d) < ranks for d in dealt):
            raise ConfigError(
                f"mesh: a step of {len(data.batch.cu_seqlens) - 1} sequences ({data.source}) cannot be cut into "
                f"{micro_batches} × {ranks} parts (micro-batches × ranks with data of their own); raise batch_rows, or "
                "lower dp, fsdp, ep or micro_batches."
            )
        return [self._tokens(d[rank]) for d in dealt]

    def _tokens(self, part: StepData) -> StepData:
        ranks = self.mesh.sizes["cp"]
        if ranks == 1:
            return part
        if len(part.targets_N) < 2 * ranks:
            raise ConfigError(
                f"mesh: cp is {ranks}, and a micro-batch of one rank has {len(part.targets_N)} tokens; expected at "
                f"least {2 * ranks}."
            )
        batch = context_batch(part.batch, ranks, self.mesh.index("cp"))
        targets_N, weight_N = (take(x, batch.chunks, batch.rank) for x in (part.targets_N, part.weight_N))
        return StepData(batch, targets_N, weight_N, part.source, part.filler)

    def backward(self, data: StepData, balance: float, how: StepConfig, dtype: str = "float32") -> StepResult:
        """`step.backward` over all ranks; the gradients are then in the shards' `local`."""
        parts = self.deal(data, how.micro_batches)
        done = backward(
            self.model, parts, balance, how.balance_over, dtype, step_tokens=len(data.targets_N), pool=self.sum
        )
        numbers = self.sum(torch.tensor([done.loss, done.balance or 0.0], dtype=torch.float64)).tolist()
        self.sum_gradients()
        return StepResult(numbers[0], None if done.balance is None else numbers[1], done.load_LE)

    def agree(self, yes: bool) -> bool:
        """What rank 0 says; clocks differ."""
        said = torch.tensor([int(yes)])
        dist.broadcast(said, 0)
        return bool(said.item())

    def checkpoints(self, folder: Path, optimizers: list[torch.optim.Optimizer]) -> ShardedCheckpoints:
        ranks = current()
        assert ranks is not None
        return ShardedCheckpoints(folder, self, optimizers, ranks.store.clone())  # type: ignore[attr-defined]

    def sum(self, x: Tensor) -> Tensor:
        """In place, the sum over all ranks that saw other tokens."""
        return all_sum(x, self.mesh.group(*TOKENS))

    def sum_gradients(self) -> None:
        """Give every `local` the gradient of the whole step."""
        waiting: dict[tuple[str, ...], list[Tensor]] = {}
        for s in self.shards:
            grad = s.parameter.grad
            if s.local is not s.parameter:
                s.local.grad = None if grad is None else grad.to_local()  # type: ignore[attr-defined]
            if s.local.grad is None:
                if s.idle:
                    continue
                raise RuntimeError(f"{s.name} has no gradient")  # on one rank only, it would stop the others
            if s.sums:
                waiting.setdefault(s.sums, []).append(s.local.grad)
        for axes, grads in waiting.items():
            sum_in_place(grads, self.mesh.group(*axes))

    def clip(self, limit: float) -> float:
        """Scale all gradients so that their norm over all parameters, each counted once, is at most `limit`."""
        squares: dict[tuple[str, ...], list[Tensor]] = {}
        for s in self.shards:
            if s.local.grad is None:
                continue
            # In double precision: PyTorch's own norm of 5 million float32 numbers is off by 1e-4 on a CPU.
            size = torch.linalg.vector_norm(s.local.grad, dtype=torch.float64)
            squares.setdefault(s.axes, []).append(size.square())
        total = sum(float(all_sum(torch.stack(v).sum(), self.mesh.group(*axes))) for axes, v in squares.items())
        norm = total**0.5
        if norm > limit:
            grads = [s.local.grad for s in self.shards if s.local.grad is not None]
            torch._foreach_mul_(grads, min(1.0, limit / (norm + 1e-6)))
        return norm

    def zero_gradients(self) -> None:
        for s in self.shards:
            s.parameter.grad = s.local.grad = None

    def release(self) -> None:
        """After passes without a backward one: give gathered parameters back, which the next step changes."""
        from torch.distributed.fsdp import FSDPModule

        for module in self.model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()

    def whole_model(self) -> Transformer | None:
        """The model in one piece, on rank 0; None on the others, which must call this too."""
        if not any(s.cuts for s in self.shards):
            return None if self.mesh.rank else self.model
        parameters = {}
        for s in self.shards:
            value = self.gather(s)
            if self.mesh.rank == 0:
                parameters[s.name] = value.cpu()
        if self.mesh.rank:
            return None
        with torch.device("meta"):
            model = Transformer(self.model.config)
        model.load_state_dict(parameters, assign=True)
        return model

    def gather(self, shard: Shard, value: Tensor | None = None) -> Tensor:
        """The whole of a parameter, or of `value`, which is cut like it, on every rank."""
        local = (shard.local.detach() if value is None else value).contiguous()
        group = self.mesh.group(*shard.axes)
        if group is None:
            return local
        places = self.mesh.members(*shard.axes)
        every = [shard.ranges(self.mesh, place) for place in places]
        sizes = [torch.Size(shape_of(r)).numel() for r in every]
        pieces = exchange_rows(local.flatten().repeat(len(places)), [local.numel()] * len(places), sizes, group)
        whole = local.new_empty(shard.whole)
        for ranges, piece in zip(every, pieces.split(sizes), strict=True):
            place_shard(whole, ranges, piece.view(shape_of(ranges)))
        return whole


def filler(part: StepData) -> StepData:
    """The same sequences, from which nothing is learnt and which are not counted."""
    return StepData(part.batch, part.targets_N, torch.zeros_like(part.weight_N), part.source, filler=True)


def place_shard(whole: Tensor, ranges: Ranges, shard: Tensor) -> None:
    for box in boxes(ranges):
        whole[tuple(slice(a, a + n) for a, n in zip(box.at, box.shape, strict=True))] = shard[box.local]


def cut_shard(whole: Tensor, ranges: Ranges) -> Tensor:
    """A contiguous copy of the part of `whole` that `ranges` name."""
    out = whole.new_empty(shape_of(ranges))
    for box in boxes(ranges):
        out[box.local] = whole[tuple(slice(a, a + n) for a, n in zip(box.at, box.shape, strict=True))]
    return out


def parallelize(model: Transformer, mesh: Mesh, fill: bool = False) -> Parallel:
    """Cut `model` in place; every rank must hold the same one. Raises ConfigError where it cannot be cut like this."""
    check_mesh(mesh.sizes, model.config)
    cuts: dict[str, tuple[Cut, ...]] = {}
    partial: set[str] = set()  # whose gradient a tensor-parallel rank has only a share of
    whole = {name: tuple(p.shape) for name, p in model.named_parameters()}
    if mesh.sizes["tp"] > 1:
        _tensor_parallel(model, mesh, cuts, partial)
    if mesh.sizes["tp"] > 1 or mesh.sizes["ep"] > 1:
        _expert_parallel(model, mesh, cuts)
    for name, how in cuts.items():
        module, _, attribute = name.rpartition(".")
        owner = model.get_submodule(module)
        with torch.no_grad():
            part = cut_shard(getattr(owner, attribute), ranges_of(whole[name], how, mesh.at, mesh.sizes))
        setattr(owner, attribute, nn.Parameter(part))
    for block in model.modules():
        if isinstance(block, GatedDeltaNet) and mesh.sizes["cp"] > 1:
            block.__class__ = ContextDeltaNet
    model.__class__ = ParallelTransformer
    assert isinstance(model, ParallelTransformer)
    model.mesh = mesh
    fully_sharded = _fully_shard(model, mesh)
    shards = []
    for name, p in model.named_parameters():
        how, local = cuts.get(name, ()), p
        if axes := fully_sharded[name]:
            how = (*how, Cut(axes, 0))
            with torch.no_grad():
                local = nn.Parameter(p.to_local(), p.requires_grad)  # type: ignore[attr-defined]
        done = {axis for c in how for axis in c.axes}
        sums = tuple(a for a in TOKENS if a not in done and mesh.sizes[a] > 1)
        shards.append(Shard(name, p, local, whole[name], how, (*sums, "tp") if name in partial else sums))
    return Parallel(model, mesh, shards, fill)


def _tensor_parallel(model: Transformer, mesh: Mesh, cuts: dict[str, tuple[Cut, ...]], partial: set[str]) -> None:
    tp, group = mesh.sizes["tp"], mesh.group("tp")
    for name, module in list(model.named_modules()):
        if isinstance(module, Attention):
            weight = f"{name}.qkv_proj.weight"
            module.heads, module.kv_heads = module.heads // tp, module.kv_heads // tp
            module.gate_width //= tp
            parts = row_parts(weight, module.qkv_proj.out_features, model.config)
            _column(module.qkv_proj, f"{name}.qkv_proj", parts, group, cuts)
            _row(module.o_proj, f"{name}.o_proj", group, cuts)
            partial |= {f"{name}.{norm}.weight" for norm in ("q_norm", "k_norm") if getattr(module, norm, None)}
        elif isinstance(module, GatedDeltaNet):
            keys, _, values = module.conv_widths
            parts = row_parts(f"{name}.in_proj.weight", module.in_proj.out_features, model.config)
            module.key_heads, module.heads = module.key_heads // tp, module.heads // tp
            module.widths, module.conv_widths = ([w // tp for w in ws] for ws in (module.widths, module.conv_widths))
            _column(module.in_proj, f"{name}.in_proj", parts, group, cuts)
            _row(module.out_proj, f"{name}.out_proj", group, cuts)
            cuts[f"{name}.conv1d"] = (Cut(("tp",), 0, (keys, keys, values)),)
            cuts |= {f"{name}.{own}": (Cut(("tp",), 0, (module.heads * tp,)),) for own in ("A_log", "dt_bias")}
            partial.add(f"{name}.norm.weight")
        elif isinstance(module, FeedForward):
            half = module.gate_up_proj.out_features // 2
            _column(module.gate_up_proj, f"{name}.gate_up_proj", (half, half), group, cuts)
            _row(module.down_proj, f"{name}.down_proj", group, cuts)
    vocabulary = (model.config.vocab_size,)
    embedding: Any = model.embed_tokens
    embedding.__class__ = VocabularyEmbedding
    embedding.group, embedding.first = group, model.config.vocab_size // tp * mesh.index("tp")
    cuts["embed_tokens.weight"] = (Cut(("tp",), 0, vocabulary),)
    if model.lm_head is not None:
        cuts["lm_head.weight"] = (Cut(("tp",), 0, vocabulary),)


def _column(linear: Linear, name: str, parts: tuple[int, ...], group: Any, cuts: dict[str, tuple[Cut, ...]]) -> None:
    cuts[f"{name}.weight"] = (Cut(("tp",), 0, parts),)
    if linear.bias is not None:
        cuts[f"{name}.bias"] = (Cut(("tp",), 0, parts),)
    linear.__class__ = ColumnLinear
    linear.group = group  # type: ignore[assignment]


def _row(linear: Linear, name: str, group: Any, cuts: dict[str, tuple[Cut, ...]]) -> None:
    cuts[f"{name}.weight"] = (Cut(("tp",), 1, (linear.in_features,)),)
    linear.__class__ = RowLinear
    linear.group = group  # type: ignore[assignment]


def _expert_parallel(model: Transformer, mesh: Mesh, cuts: dict[str, tuple[Cut, ...]]) -> None:
    for name, module in model.named_modules():
        if not isinstance(module, Experts):
            continue
        experts, wide, _ = module.gate_up.shape
        module.__class__ = ParallelExperts
        assert isinstance(module, ParallelExperts)
        module.ep_group, module.tp_group, module.ranks = mesh.group("ep"), mesh.group("tp"), mesh.sizes["ep"]
        for attribute, dim, parts in (("gate_up", 1, (wide // 2,) * 2), ("down", 2, (wide // 2,))):
            both = (Cut(("ep",), 0, (experts,)), Cut(("tp",), dim, parts))
            cuts[f"{name}.{attribute}"] = tuple(c for c in both if mesh.size(*c.axes) > 1)


def _fully_shard(model: Transformer, mesh: Mesh) -> dict[str, tuple[str, ...]]:
    """FSDP2 over each layer, and over the rest (embedding, last norm, head) as one; name → the axes that it cuts.

    Ranks of fsdp, ep and cp share all weights, but not over ep those of a module of experts, which ep has cut already.
    """
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.fsdp import FSDPModule, fully_shard

    every, inner = (tuple(a for a in axes if mesh.sizes[a] > 1) for axes in (("fsdp", "ep", "cp"), ("fsdp", "cp")))
    out = {name: every for name, _ in model.named_parameters()}
    if not every:
        return out
    devices = {axes: DeviceMesh.from_group(mesh.group(*axes), "cpu") for axes in {every, inner} if axes}  # type: ignore[arg-type]
    apart: set[nn.Parameter] = set()
    for name, module in list(model.named_modules()):
        if isinstance(module, Experts) and inner != every:
            out |= {f"{name}.{own}": inner for own, _ in module.named_parameters()}
            if inner:
                fully_shard(module, mesh=devices[inner])
            else:
                apart |= set(module.parameters())
    for layer in model.layers:
        fully_shard(layer, mesh=devices[every], ignored_params=apart)
    # The head is used after the forward pass.
    fully_shard(model, mesh=devices[every], reshard_after_forward=False, ignored_params=apart)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)  # sums, not means
            module.set_force_sum_reduction_for_comms(True)
    return out
