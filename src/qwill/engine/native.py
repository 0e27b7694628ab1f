"""The native executor: `forward.c` with its weights packed once and a cache laid out for it.

It is used for float32 models on a CPU where a C compiler exists (`suits`), and gives the same numbers as the
model's own definition up to rounding. Unlike the definition's matrix products, its results don't depend on
the rest of the batch at all, not even in the last bit.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from qwill.base.native_build import compile_library
from qwill.model import native as model_native
from qwill.model import native_library, ops
from qwill.model.config import HYBRID
from qwill.model.project import is_plain
from qwill.model.transformer import Experts

if TYPE_CHECKING:
    from qwill.model.transformer import Layer, Transformer

GROUP = 4  # as in forward.c: query heads that share a pass over the keys
SMALL = 1_000_000  # weights · tokens of a pass; below, a second thread costs more than it brings
WIDTH = 1024  # tokens of one pass at most: bounds the work space
# The structures of forward.c, field by field.
_SIZES = ["layers", "hidden", "heads", "kv_heads", "head_dim", "top_k", "vocab", "renormalise", "capacity"]
_TABLES = ["embedding", "norm", "head", "cos", "sin"]
_WEIGHTS = [
    "norm1", "qkv", "qkv_bias", "q_norm", "k_norm", "out", "out_bias", "norm2", "router", "gate_up", "down",
    "keys", "values",
]  # fmt: skip
_SPACE = [
    "x", "normed", "qkv", "attended", "router", "weight", "scale", "act", "expert_out", "scores", "chosen", "place",
    "token", "start", "phases",
]  # fmt: skip


class _Model(ctypes.Structure):
    _fields_ = [(n, ctypes.c_int64) for n in _SIZES] + [(n, ctypes.c_void_p) for n in _TABLES]
    _fields_ += [("eps", ctypes.c_float)]


class _Layer(ctypes.Structure):
    _fields_ = [("experts", ctypes.c_int64), ("ff", ctypes.c_int64)]
    _fields_ += [(n, ctypes.c_void_p) for n in _WEIGHTS]


class _Work(ctypes.Structure):
    _fields_ = [(n, ctypes.c_void_p) for n in _SPACE]


@cache
def library() -> ctypes.CDLL | None:
    return compile_library("forward.c", "qwill.engine", native_library.ROWS)


def suits(model: Transformer) -> bool:
    """Whether the native executor can run this model here: no Gated DeltaNet, gated attention or shared expert, no
    adapter and no quantised weights."""
    config = model.config
    if config.model_type in HYBRID or config.shared_expert_intermediate_size or not is_plain(model):
        return False
    weight, built = model.embed_tokens.weight, model_native.suits(model.embed_tokens.weight)
    lib = library() if built else None
    return lib is not None and weight.is_contiguous() and config.head_dim % lib.lanes() == 0


class NativeExecutor:
    """`slots` sequences of up to `capacity` tokens. Weights are copied when it is made: make a new one when
    they change.
    """

    def __init__(self, model: Transformer, slots: int, capacity: int) -> None:
        lib = library()
        assert lib is not None
        config = model.config
        self._lib, self._lanes, self._config = lib, lib.lanes(), config
        self._threads = torch.get_num_threads()
        self.lengths = torch.zeros(slots, dtype=torch.int64)
        self._keep: list[Tensor] = []  # what the structures point into
        self._model = _Model(
            layers=config.num_hidden_layers,
            hidden=config.hidden_size,
            heads=config.num_attention_heads,
            kv_heads=config.num_key_value_heads,
            head_dim=config.head_dim,
            top_k=config.num_experts_per_tok,
            vocab=config.vocab_size,
            renormalise=config.norm_topk_prob,
            eps=config.rms_norm_eps,
            embedding=self._point(model.embed_tokens.weight),
            norm=self._point(model.norm.weight),
            head=self._pack(model.head_weight_VD),
        )
        layers = [self._layer(cast("Layer", layer)) for layer in model.layers]
        self._layers = (_Layer * len(layers))(*layers)
        self._cost = sum(tensor.numel() for tensor in self._keep)
        self._width = max(slots, min(WIDTH, slots * capacity))
        self._work = self._space()
        self._slots = torch.arange(slots)
        self._logits = torch.empty(slots, config.vocab_size)
        self._keys = self._values = torch.empty(0)
        self.capacity = 0
        self.grow(capacity)

    def grow(self, capacity: int) -> None:
        """Make room for sequences of `capacity` tokens, keeping what is cached."""
        config, old, lanes = self._config, self.capacity, self._lanes
        blocks = -(-capacity // lanes)
        self.capacity = blocks * lanes
        outer = (config.num_hidden_layers, len(self.lengths), config.num_key_value_heads)
        keys = self._fresh(*outer, blocks, config.head_dim, lanes).zero_()
        values = self._fresh(*outer, self.capacity, config.head_dim).zero_()
        if old:
            keys[:, :, :, : old // lanes], values[:, :, :, :old] = self._keys, self._values
        self._keys, self._values = keys, values
        for layer, key, value in zip(self._layers, keys, values, strict=True):
            layer.keys, layer.values = key.data_ptr(), value.data_ptr()
        places = torch.arange(self.capacity)
        self._rope = ops.rope_tables(places, config.head_dim, config.rope_theta, torch.float32, config.rope_scaling)
        self._model.cos, self._model.sin = (table.data_ptr() for table in self._rope)
        self._scores = torch.empty(self._threads, GROUP, self.capacity)
        self._work.scores, self._model.capacity = self._scores.data_ptr(), self.capacity

    def _fresh(self, *shape: int) -> Tensor:
        tensor = torch.empty(shape)
        self._lib.use_large_pages(_pointer(tensor), ctypes.c_int64(tensor.nbytes))
        return tensor

    def _point(self, tensor: Tensor | None) -> int | None:
        if tensor is None:
            return None
        self._keep.append(tensor.detach().contiguous())
        return self._keep[-1].data_ptr()

    def _pack(self, weight: Tensor, half: int = 0) -> int:
        """Pack [columns, k], or every expert's [E, columns, k], for `forward.c`."""
        weight = weight.detach().contiguous()
        experts = weight if weight.dim() == 3 else weight[None]
        _, columns, k = experts.shape
        panels = -(-half // self._lanes) if half else -(-columns // (2 * self._lanes))
        packed = self._fresh(len(experts), panels, k, 2 * self._lanes)
        sizes = [ctypes.c_int64(size) for size in (columns, k, half)]
        for source, target in zip(experts, packed, strict=True):
            self._lib.pack(_pointer(source), *sizes, _pointer(target), self._threads)
        self._keep.append(packed)
        return packed.data_ptr()

    def _layer(self, layer: Layer) -> _Layer:
        attention, mlp = layer.self_attn, layer.mlp
        assert attention is not None
        gate_up: Tensor
        down: Tensor
        if isinstance(mlp, Experts):
            gate_up, down, router, experts = mlp.gate_up, mlp.down, self._pack(mlp.gate.weight), len(mlp.down)
        else:
            gate_up, down, router, experts = mlp.gate_up_proj.weight, mlp.down_proj.weight, None, 0
        ff = down.shape[-1]
        return _Layer(
            experts=experts,
            ff=ff,
            norm1=self._point(layer.input_layernorm.weight),
            qkv=self._pack(attention.qkv_proj.weight),
            qkv_bias=self._point(attention.qkv_proj.bias),
            q_norm=self._point(attention.q_norm.weight if attention.q_norm else None),
            k_norm=self._point(attention.k_norm.weight if attention.k_norm else None),
            out=self._pack(attention.o_proj.weight),
            out_bias=self._point(attention.o_proj.bias),
            norm2=self._point(layer.post_attention_layernorm.weight),
            router=router,
            gate_up=self._pack(gate_up, half=ff),
            down=self._pack(down),
        )

    def _space(self) -> _Work:
        config, n = self._config, self._width
        top_k, experts = max(1, config.num_experts_per_tok), max(1, config.num_experts)
        stride = max(-(-layer.ff // self._lanes) * self._lanes for layer in self._layers)
        query = config.num_attention_heads * config.head_dim
        floats = {
            "x": n * config.hidden_size,
            "normed": n * config.hidden_size,
            "qkv": n * (query + 2 * config.num_key_value_heads * config.head_dim),
            "attended": n * query,
            "router": n * experts,
            "weight": n * top_k,
            "scale": n * top_k,
            "act": n * top_k * stride,
            "expert_out": n * top_k * config.hidden_size,
        }
        indices = dict.fromkeys(("chosen", "place", "token"), n * top_k) | {"start": experts + 1}
        indices["phases"] = self._lib.phase_bytes(ctypes.c_int64(config.num_hidden_layers)) // 8
        space = {name: self._point(torch.empty(size)) for name, size in floats.items()}
        space |= {name: self._point(torch.empty(size, dtype=torch.int64)) for name, size in indices.items()}
        return _Work(**space)

    def _forward(
        self, tokens: Tensor, slots: Tensor, positions: Tensor, rows: Tensor, logits: Tensor
    ) -> None:
        threads = self._threads if len(tokens) * self._cost > SMALL else 1
        self._lib.forward(
            ctypes.byref(self._model), self._layers, ctypes.byref(self._work), ctypes.c_int64(len(tokens)),
            _pointer(tokens), _pointer(slots), _pointer(positions), ctypes.c_int64(len(rows)), _pointer(rows),
            _pointer(logits), threads,
        )  # fmt: skip

    def step(self, tokens_B: Tensor) -> Tensor:
        """Append one token to each of the first B slots; logits [B, V], valid until the next call."""
        count = len(tokens_B)
        rows, logits = self._slots[:count], self._logits[:count]
        self._forward(tokens_B, rows, self.lengths, rows, logits)
        self.lengths[:count] += 1
        return logits

    def prefill(self, prompts: Sequence[Sequence[int]], slots: Sequence[int]) -> Tensor:
        """Append prompts to the sequences in the given slots; logits [prompts, V] after each one's last
        token.
        """
        sizes = torch.tensor([len(p) for p in prompts])
        tokens = torch.tensor([t for p in prompts for t in p])
        starts = self.lengths[list(slots)]
        slot_N = torch.repeat_interleave(torch.tensor(slots), sizes)
        ends = sizes.cumsum(0)
        position_N = torch.arange(len(tokens)) + torch.repeat_interleave(starts - ends + sizes, sizes)
        logits = torch.empty(len(prompts), self._config.vocab_size)
        for first in range(0, len(tokens), self._width):
            part = slice(first, first + self._width)
            inside = ((ends > first) & (ends <= first + self._width)).nonzero()[:, 0]
            done = int(inside[0]) if len(inside) else 0
            rows = ends[inside] - 1 - first
            self._forward(tokens[part], slot_N[part], position_N[part], rows, logits[done:])
        self.lengths[list(slots)] = starts + sizes
        return logits

    def copy(self, source: int, targets: list[int], length: int) -> None:
        """Give the slots `targets` the first `length` tokens of slot `source`."""
        blocks = -(-length // self._lanes)
        self._keys[:, targets, :, :blocks] = self._keys[:, source : source + 1, :, :blocks]
        self._values[:, targets, :, :length] = self._values[:, source : source + 1, :, :length]
        self.lengths[targets] = length

    def mark(self, slots: list[int]) -> None:
        """Nothing to remember: keys and values can be cut off anywhere."""

    def rewind(self, slot: int, length: int) -> None:
        """Cut the sequence in a slot off after `length` tokens."""
        self.lengths[slot] = length

    def move(self, sources: list[int], targets: list[int]) -> None:
        """Move whole sequences to other slots; `sources` are free afterwards."""
        for source, target in zip(sources, targets, strict=True):
            self.copy(source, [target], int(self.lengths[source]))
        self.lengths[sources] = 0


def _pointer(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())
