"""The native executor: `forward.c` with its weights packed once and a paged cache laid out for it.

It runs models on a CPU where a C compiler exists (`suits`): float32 weights with the numbers of the model's own
definition up to rounding, and quantised weights times activations of 8 bits (`codes.h`). Its results don't depend on
the rest of the batch at all, not even in the last bit.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor

from qwill.base.native_build import compile_library
from qwill.engine.native_adapters import COUNT, LowRankStruct, NativeAdapter
from qwill.engine.native_weights import SPAN, Matrix, lay_out, suits_codes
from qwill.model import native as model_native
from qwill.model import native_library, ops
from qwill.model.config import HYBRID
from qwill.model.held import round_bytes
from qwill.model.packed import Codes
from qwill.model.project import Quantized
from qwill.model.transformer import Experts

if TYPE_CHECKING:
    from qwill.engine.executor import Step
    from qwill.model.lora import Adapter
    from qwill.model.transformer import Layer, Transformer

GROUP = 4  # as in forward.c: query heads that share a pass over the keys
SMALL = 1_000_000  # weights · tokens of a pass; below, a second thread costs more than it brings
PACKED = 4  # dimensions of what is laid out here; the model's own tensors have fewer
KINDS = {torch.float32: 0, torch.float16: 1, torch.int8: 2}  # how keys and values are held, as in attend.h
HEADERS = [
    native_library.ROWS, native_library.ATTEND, ("codes.h", "qwill.engine"), ("codes_tile.h", "qwill.engine"),
    ("phases.h", "qwill.engine"), ("low_rank.h", "qwill.engine"),
]  # fmt: skip
# The structures of forward.c, field by field.
_SIZES = ["layers", "hidden", "heads", "kv_heads", "head_dim", "top_k", "renormalise", "block", "kind"]
_NORMS = ["norm1", "q_norm", "k_norm", "norm2"]
_MATRICES = ["qkv", "out", "router", "gate_up", "down"]
_CACHE = ["keys", "values", "key_scale", "value_scale"]
_SPACE = [
    "x", "normed", "qkv", "attended", "router", "weight", "scale", "act", "expert_out", "scores", "low", "normed_codes",
    "attended_codes", "act_codes", "chosen", "place", "token", "start", "phases",
]  # fmt: skip


class _Model(ctypes.Structure):
    _fields_ = [(n, ctypes.c_int64) for n in _SIZES]
    _fields_ += [(n, ctypes.c_void_p) for n in ("embedding", "norm", "cos", "sin")]
    _fields_ += [("head", Matrix), ("eps", ctypes.c_float)]


class _Layer(ctypes.Structure):
    _fields_ = [("experts", ctypes.c_int64), *((n, ctypes.c_void_p) for n in _NORMS)]
    _fields_ += [(n, Matrix) for n in _MATRICES] + [(n, ctypes.c_void_p) for n in ("updates", *_CACHE)]


class _Work(ctypes.Structure):
    _fields_ = [*((n, ctypes.c_void_p) for n in _SPACE), ("capacity", ctypes.c_int64), ("rank", ctypes.c_int64)]


class _Pass(ctypes.Structure):
    _fields_ = [(n, ctypes.c_int64) for n in ("n", "sequences", "width", "outputs")]
    _fields_ += [
        (n, ctypes.c_void_p)
        for n in ("tokens", "positions", "sequence", "output_rows", "tables", "logits", "experts", "adapter")
    ]


@cache
def library() -> ctypes.CDLL | None:
    lib = compile_library("forward.c", "qwill.engine", *HEADERS)
    if lib is not None:
        lib.choose_path(2)
    return lib


def lanes() -> int:
    """Of how many tokens a block's size has to be a multiple."""
    lib = library()
    assert lib is not None
    return int(lib.lanes())


def suits(model: Transformer) -> bool:
    """Whether the native executor can run this model here: no Gated DeltaNet, gated attention or shared expert, no
    adapter on it (those of the engine are its own), and quantised weights only in groups that it knows."""
    config = model.config
    if config.model_type in HYBRID or config.shared_expert_intermediate_size:
        return False
    for module in model.modules():
        if getattr(module, "updates", None) is not None or (isinstance(module, Quantized) and not suits_codes(module)):
            return False
    weight, built = model.embed_tokens.weight, model_native.suits(model.embed_tokens.weight)
    lib = library() if built else None
    return lib is not None and weight.is_contiguous() and config.head_dim % lib.lanes() == 0


def cache_dtype(model: Transformer) -> torch.dtype:
    """How keys and values are held unless told otherwise: in half floats beside quantised weights."""
    return torch.float16 if any(isinstance(m, Quantized) for m in model.modules()) else torch.float32


class NativeExecutor:
    """An `Executor` (executor.py). Weights are copied when it is made; `refresh` copies them again. With `in_place`
    floats are read where they lie in the model, and each pass lays a panel out before it multiplies with it: the same
    numbers without a copy, some time more.

    kv_dtype: float32, float16 or int8 (a scale for each token and head); None: as `cache_dtype` says.
    """

    def __init__(
        self,
        model: Transformer,
        blocks: int,
        block_size: int = 16,
        states: int = 0,
        kv_dtype: torch.dtype | None = None,
        in_place: bool = False,
    ) -> None:
        lib = library()
        assert lib is not None and states == 0
        config = model.config
        self._lib, self._lanes, self._config, self._source = lib, lib.lanes(), config, model
        assert block_size % self._lanes == 0, f"block_size is {block_size}; expected a multiple of {self._lanes}"
        self._threads = torch.get_num_threads()
        self.blocks, self.block_size = blocks, block_size
        self.experts_LNk: Tensor | None = None
        self.hidden_BD: Tensor | None = None
        self.quantized = any(isinstance(m, Quantized) for m in model.modules())
        self._kv_dtype, self._in_place = kv_dtype or cache_dtype(model), in_place
        self._keep: list[Tensor] = []  # what the structures point into
        self._spare: list[Tensor] = []
        self.refresh()
        self._make_cache()
        self._work, self._width = _Work(), 0
        self._logits = torch.empty(0)
        self._adapters: dict[int, NativeAdapter] = {}
        self._set_positions(min(config.max_position_embeddings, 4096))

    def refresh(self) -> None:
        """Take over the model's weights again, into the memory that they had."""
        config, model = self._config, self._source
        self._spare, self._keep = [t for t in self._keep if t.dim() == PACKED], []
        self._model = _Model(
            layers=config.num_hidden_layers,
            hidden=config.hidden_size,
            heads=config.num_attention_heads,
            kv_heads=config.num_key_value_heads,
            head_dim=config.head_dim,
            top_k=config.num_experts_per_tok,
            renormalise=config.norm_topk_prob,
            block=self.block_size,
            kind=KINDS[self._kv_dtype],
            eps=config.rms_norm_eps,
            embedding=self._point(model.embed_tokens.weight),
            norm=self._point(model.norm.weight),
            head=self._head(model),
        )
        layers = [self._layer(cast("Layer", layer)) for layer in model.layers]
        self._layers = (_Layer * len(layers))(*layers)
        self._spare = []
        self._cost = sum(tensor.numel() for tensor in self._keep)
        if hasattr(self, "cache"):
            self._place_cache()
            self._place_adapters()
            self._model.cos, self._model.sin = (table.data_ptr() for table in self._rope)

    # -- weights

    def _fresh(self, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
        for i, tensor in enumerate(self._spare):
            if tensor.shape == shape and tensor.dtype == dtype:
                return self._spare.pop(i)
        tensor = torch.empty(shape, dtype=dtype)
        self._lib.use_large_pages(_pointer(tensor), ctypes.c_int64(tensor.nbytes))
        return tensor

    def _zeros(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Zeros that take memory when they are first written: a start need not wait for a gigabyte of them."""
        size = math.prod(shape) * dtype.itemsize
        flat = torch.from_numpy(np.zeros(size + 64, np.int8))
        flat = flat[-flat.data_ptr() % 64 :][:size]  # vectors don't cross cache lines
        self._lib.use_large_pages(_pointer(flat), ctypes.c_int64(size))
        return flat.view(dtype).view(shape)

    def _point(self, tensor: Tensor | None) -> int | None:
        if tensor is None:
            return None
        self._keep.append(tensor.detach().contiguous())
        return self._keep[-1].data_ptr()

    def _head(self, model: Transformer) -> Matrix:
        weight = model.head_weight_VD
        if not self.quantized:
            return self._matrix(weight)
        codes = getattr(model, "head_codes", None)
        if codes is None and weight.shape[1] % SPAN == 0:
            codes = round_bytes(weight.detach(), torch.float32)
        return self._matrix(weight if codes is None else codes)

    def _matrix(self, weight: Tensor | Quantized | Codes, bias: Tensor | None = None, half: int = 0) -> Matrix:
        """[columns, k], or every expert's [E, columns, k], as `forward.c` wants them."""
        if not isinstance(weight, Tensor):
            codes = Codes(weight.bits, weight.columns, weight.values, weight.scale, weight.zero, weight.minimum)
            struct, kept = lay_out(codes, half, self._fresh)
            self._keep += kept
            return Matrix(struct, None, self._point(bias), struct.columns, struct.k)
        experts = weight.detach() if weight.dim() == 3 else weight.detach()[None]
        columns, k = experts.shape[1:]
        if self._in_place:
            return Matrix(packed=self._point(experts), bias=self._point(bias), columns=columns, k=k, plain=1)
        packed = self._pack(experts, half)
        self._keep.append(packed)
        return Matrix(packed=packed.data_ptr(), bias=self._point(bias), columns=columns, k=k)

    def _pack(self, experts: Tensor, half: int) -> Tensor:
        """[E, columns, k] in panels."""
        experts = experts.contiguous()
        _, columns, k = experts.shape
        panels = -(-half // self._lanes) if half else -(-columns // (2 * self._lanes))
        packed = self._fresh((len(experts), panels, k, 2 * self._lanes))
        sizes = [ctypes.c_int64(size) for size in (columns, k, half)]
        for source, target in zip(experts, packed, strict=True):
            self._lib.pack(_pointer(source), *sizes, _pointer(target), self._threads)
        return packed

    def _layer(self, layer: Layer) -> _Layer:
        attention, mlp = layer.self_attn, layer.mlp
        assert attention is not None
        gate_up: Tensor | Quantized
        down: Tensor | Quantized
        if isinstance(mlp, Experts):
            gate_up, down, experts = mlp.gate_up, mlp.down, mlp.down.shape[0]
        else:
            gate_up, down, experts = mlp.gate_up_proj.weight, mlp.down_proj.weight, 0
        if isinstance(gate_up, Quantized) != isinstance(down, Quantized):  # the two are one step there
            gate_up, down = (w.dense(torch.float32) if isinstance(w, Quantized) else w for w in (gate_up, down))
        made = _Layer(
            experts=experts,
            norm1=self._point(layer.input_layernorm.weight),
            qkv=self._matrix(attention.qkv_proj.weight, attention.qkv_proj.bias),
            q_norm=self._point(attention.q_norm.weight if attention.q_norm else None),
            k_norm=self._point(attention.k_norm.weight if attention.k_norm else None),
            out=self._matrix(attention.o_proj.weight, attention.o_proj.bias),
            norm2=self._point(layer.post_attention_layernorm.weight),
            gate_up=self._matrix(gate_up, half=down.shape[-1]),
            down=self._matrix(down),
        )
        if isinstance(mlp, Experts):
            router = mlp.gate.weight  # its choices are made in float32
            made.router = self._matrix(router.dense(torch.float32) if isinstance(router, Quantized) else router)
        return made

    # -- adapters

    def put_adapter(self, number: int, adapter: Adapter) -> None:
        self._adapters[number] = NativeAdapter(self._source, adapter, self._pack)
        self._place_adapters()

    def remove_adapter(self, number: int) -> None:
        del self._adapters[number]
        self._place_adapters()

    def _place_adapters(self) -> None:
        """Each layer's table of adapters, by number."""
        count = max(self._adapters, default=-1) + 1
        self._updates = [(LowRankStruct * (count * COUNT))() for _ in self._layers]
        for number, adapter in self._adapters.items():
            for table, own in zip(self._updates, adapter.layers, strict=True):
                table[number * COUNT : (number + 1) * COUNT] = own[:]
        for layer, table in zip(self._layers, self._updates, strict=True):
            layer.updates = ctypes.addressof(table)
        rank = max((adapter.rank for adapter in self._adapters.values()), default=0)
        if rank > self._work.rank:
            self._work.rank, self._width = -(-rank // self._lanes) * self._lanes, 0

    # -- cache

    def _make_cache(self) -> None:
        c = self._config
        outer = (c.num_hidden_layers, self.blocks, c.num_key_value_heads)
        keys = (*outer, self.block_size // self._lanes, c.head_dim, self._lanes)
        values = (*outer, self.block_size, c.head_dim)
        shapes = [(keys, self._kv_dtype), (values, self._kv_dtype)]
        if self._kv_dtype == torch.int8:
            shapes += [((*outer, self.block_size), torch.float32)] * 2
        self.cache = [self._zeros(shape, dtype) for shape, dtype in shapes]
        self._place_cache()

    def grow(self, blocks: int) -> None:
        old, self.blocks = self.cache, blocks
        self._make_cache()
        for new, store in zip(self.cache, old, strict=True):
            new[:, : store.shape[1]] = store

    def _place_cache(self) -> None:
        for i, layer in enumerate(self._layers):
            for name, store in zip(_CACHE, self.cache, strict=False):
                setattr(layer, name, store[i].data_ptr())

    def copy_blocks(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        for store in self.cache:
            store[:, list(targets)] = store[:, list(sources)]

    def copy_states(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        """There are none."""

    # -- a pass

    def _set_positions(self, count: int) -> None:
        c = self._config
        self._positions = count
        self._rope = ops.rope_tables(torch.arange(count), c.head_dim, c.rope_theta, torch.float32, c.rope_scaling)
        self._model.cos, self._model.sin = (table.data_ptr() for table in self._rope)
        capacity = -(-count // self._lanes) * self._lanes
        self._scores = torch.empty(self._threads, GROUP, capacity)
        self._work.scores, self._work.capacity = self._scores.data_ptr(), capacity

    def _set_width(self, n: int) -> None:
        """Room for passes of n tokens."""
        c = self._config
        self._width = n
        top_k, experts = max(1, c.num_experts_per_tok), max(1, c.num_experts)
        ff = max(layer.down.k for layer in self._layers)
        query = c.num_attention_heads * c.head_dim
        floats = {
            "x": n * c.hidden_size,
            "normed": n * c.hidden_size,
            "qkv": n * (query + 2 * c.num_key_value_heads * c.head_dim),
            "attended": n * query,
            "router": n * experts,
            "weight": n * top_k,
            "scale": n * top_k,
            "act": n * top_k * (ff + 31),
            "expert_out": n * top_k * c.hidden_size,
            "low": n * top_k * self._work.rank,
        }
        codes = {"normed_codes": (n, c.hidden_size), "attended_codes": (n, query), "act_codes": (n * top_k, ff)}
        indices = dict.fromkeys(("chosen", "place", "token"), n * top_k) | {"start": experts + 1}
        sizes = (ctypes.c_int64(c.num_hidden_layers), ctypes.c_int64(self._threads))
        indices["phases"] = self._lib.phase_bytes(*sizes) // 8 + 8
        self._space = {name: self._fresh((size,)) for name, size in floats.items()}
        for name, (rows, k) in codes.items():
            self._space[name] = self._fresh((rows * self._lib.code_row_bytes(ctypes.c_int64(k)),), torch.int8)
        self._space |= {name: self._fresh((size,), torch.int64) for name, size in indices.items()}
        for name, tensor in self._space.items():
            setattr(self._work, name, tensor.data_ptr() + -tensor.data_ptr() % 64 * (name == "phases"))

    def run(self, step: Step) -> Tensor:
        n, outputs = len(step.tokens_N), len(step.rows)
        if n > self._width:
            self._set_width(max(n, min(2 * self._width, 1024)))
        # NumPy here: a handful of PyTorch's calls costs as much as a small model's pass.
        last = int(step.positions_N.numpy().max()) + 1
        if last > self._positions:
            self._set_positions(max(last, 2 * self._positions))
        if outputs > len(self._logits):
            self._logits = torch.empty(outputs, self._model.head.columns)
        borders = step.cu_seqlens.numpy()
        sequence_N = np.arange(len(borders) - 1).repeat(borders[1:] - borders[:-1])
        self.experts_LNk = None
        if step.experts:
            sparse = sum(layer.experts > 0 for layer in self._layers)
            self.experts_LNk = torch.empty(sparse, n, self._config.num_experts_per_tok, dtype=torch.int64)
        adapter_N = None
        if self._adapters and (adapter_R := step.adapters_R.numpy()).max() >= 0:
            adapter_N = adapter_R[sequence_N]
        given = _Pass(
            n=n, sequences=len(borders) - 1, width=step.tables_RM.shape[1], outputs=outputs,
            tokens=step.tokens_N.data_ptr(), positions=step.positions_N.data_ptr(), sequence=sequence_N.ctypes.data,
            output_rows=step.rows.data_ptr(), tables=step.tables_RM.data_ptr(), logits=self._logits.data_ptr(),
            experts=self.experts_LNk.data_ptr() if self.experts_LNk is not None else None,
            adapter=adapter_N.ctypes.data if adapter_N is not None else None,
        )  # fmt: skip
        threads = self._threads if n * self._cost > SMALL else 1
        self._lib.forward(
            ctypes.byref(self._model), self._layers, ctypes.byref(self._work), ctypes.byref(given), threads
        )
        self.hidden_BD = None
        if step.hidden_rows is not None:
            self.hidden_BD = self._space["normed"][: n * self._config.hidden_size].view(n, -1)[step.hidden_rows]
        return self._logits[:outputs]


def _pointer(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())
