"""PEFT's adapter folders: adapter_config.json and adapter_model.safetensors, as PEFT 0.21 writes and reads them.

A is `<module>.lora_A.weight` [r, I] and B `<module>.lora_B.weight` [O, r], modules as in the released files after
`base_model.model.`; experts either one by one (`…experts.3.up_proj`), or stacked, named by `target_parameters`:

    …experts.lora_A.weight              row e·r + j        is row j of A of expert e
    …experts.lora_B.weight              column j·E + e     is column j of B of expert e
    …experts.base_layer.lora_A.weight   the inner of two stacked projections: gate_up_proj, down_proj being the outer
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from qwill.base.errors import CheckpointError, DataError, ModelError
from qwill.base.files import read_json, sync_folder, write_json
from qwill.base.tensorfile import read_header
from qwill.model.lora import EXPERT, Adapter, LowRank, Target, projections
from qwill.model.lora_config import LoraConfig, named
from qwill.model.stored import FLOATS
from qwill.model.transformer import Transformer

CONFIG, WEIGHTS, PREFIX = "adapter_config.json", "adapter_model.safetensors", "base_model.model."
# What may be set and changes nothing here: notes, training only, and choices that the tensors' names show.
INERT = {
    "peft_type", "peft_version", "auto_mapping", "task_type", "base_model_name_or_path", "revision", "inference_mode",
    "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "lora_dropout", "init_lora_weights", "bias",
    "target_modules", "target_parameters", "exclude_modules", "layers_to_transform", "layers_pattern", "megatron_core",
    "qalora_group_size", "runtime_config", "loftq_config",
}  # fmt: skip
# Initialisations that change the base model as well, so that the adapter alone says little.
OTHER_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


def save_adapter(
    adapter: Adapter, folder: str | Path, base: str | None = None, metadata: dict[str, str] | None = None
) -> None:
    """Write the adapter into the (existing or new) folder. `base` names the model that it is for.

    Raises ModelError for experts one by one with `rslora`: PEFT 0.21 stacks gate and up when it loads them, which
    doubles their rank, and would scale them by another root.
    """
    config, folder = adapter.config, Path(folder)
    if config.rslora and any(module.endswith(".experts.gate_proj") for module in adapter.parts):
        raise ModelError("PEFT scales rslora adapters of single experts wrongly; give parameters experts.gate_up_proj.")
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f".{WEIGHTS}.tmp"
    try:
        save_file({k: v.contiguous() for k, v in _tensors(adapter)}, part, {"format": "pt", **(metadata or {})})
        part.chmod(0o644)
        with open(part, "rb") as f:
            os.fsync(f.fileno())
        part.replace(folder / WEIGHTS)
    finally:
        part.unlink(missing_ok=True)
    sync_folder(folder)
    write_json(folder / CONFIG, _config_to_json(config, base))


def _tensors(adapter: Adapter) -> Iterator[tuple[str, Tensor]]:
    for module, part in adapter.parts.items():
        a, b = part.a.detach().cpu(), part.b.detach().cpu()
        container, _, last = module.rpartition(".")
        if a.ndim == 2:
            yield from _pair(module, a, b)
        elif adapter.is_stacked(module):
            inner = last == "gate_up_proj" and adapter.is_stacked(f"{container}.down_proj")
            stacked = f"{container}.base_layer" if inner else container
            yield from _pair(stacked, a.flatten(0, 1), b.permute(1, 2, 0).flatten(1))
        else:
            for e in range(len(a)):
                yield from _pair(f"{container}.{e}.{last}", a[e], b[e])


def _pair(module: str, a: Tensor, b: Tensor) -> Iterator[tuple[str, Tensor]]:
    yield f"{PREFIX}{module}.lora_A.weight", a
    yield f"{PREFIX}{module}.lora_B.weight", b


def _config_to_json(config: LoraConfig, base: str | None) -> dict[str, Any]:
    def whole(x: float) -> float:
        return int(x) if x == int(x) else x

    return {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base, "inference_mode": True,
        "r": config.rank, "lora_alpha": whole(config.alpha), "lora_dropout": 0.0, "use_rslora": config.rslora,
        "rank_pattern": dict(config.ranks), "alpha_pattern": {k: whole(v) for k, v in config.alphas.items()},
        "target_modules": list(config.targets), "target_parameters": list(config.parameters) or None,
        "bias": "none", "fan_in_fan_out": False, "init_lora_weights": True, "modules_to_save": None, "use_dora": False,
    }  # fmt: skip


def load_adapter(model: Transformer, folder: str | Path) -> Adapter:
    """The adapter in a folder, made for this model; `attach` or `merge` puts it to work.

    Raises ModelError for a kind of adapter that is not plain LoRA, CheckpointError naming the tensor for an adapter of
    another model or a file out of order. Pickled adapters are never opened.
    """
    folder = Path(folder)
    config, base = read_lora_config(folder)
    path = folder / WEIGHTS
    if not path.is_file():
        bins = " (adapter_model.bin is a pickle, which Qwill never opens)" * (folder / "adapter_model.bin").is_file()
        raise CheckpointError(f"{folder}: holds no {WEIGHTS}{bins}; save the adapter as safetensors.")
    entries = read_header(path)
    known, pairs = projections(model), _modules(path, set(entries))
    kind = f"this {model.config.model_type} model"
    made_for = f"; the adapter was made for {base}" * bool(base)
    found: dict[str, dict[int, str]] = {}
    for module in pairs:
        key, expert = _place(module, config)
        if key not in known:
            raise CheckpointError(f"{path}: adapts {module}, which {kind} has not{made_for}.")
        if expert is not None and expert >= known[key].experts:
            raise CheckpointError(f"{path}: adapts {module}, but {kind} has {known[key].experts} experts{made_for}.")
        found.setdefault(key, {})[-1 if expert is None else expert] = module
    ranks: dict[str, int] = {}
    for key, modules in found.items():
        target = known[key]
        stack = max(1, target.experts) if -1 in modules else 1
        for module in modules.values():
            rank = ranks.setdefault(key, config.rank_of(key if -1 in modules else module))
            if -1 not in modules and (rank, config.scale_of(module)) != _same(config, modules):
                raise ModelError(f"{folder}: the experts of {key} have different ranks or alphas; expected the same.")
            shapes = {"A": (stack * rank, target.inputs), "B": (target.outputs, stack * rank)}
            for which, shape in shapes.items():
                entry = entries[name := f"{PREFIX}{module}.lora_{which}.weight"]
                if entry.shape != shape:
                    raise CheckpointError(
                        f"{path}: tensor {name} has shape {list(entry.shape)}; {kind} and rank {rank} in {CONFIG} mean "
                        f"{list(shape)}{made_for}."
                    )
                if entry.dtype not in FLOATS:
                    raise CheckpointError(f"{path}: tensor {name} is of type {entry.dtype}; expected floats.")
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}); copy or make it again.") from None
    parts = {key: _part(known[key], key, ranks[key], modules, tensors, config) for key, modules in found.items()}
    return Adapter(config, parts)


def _part(
    target: Target, key: str, rank: int, modules: dict[int, str], tensors: dict[str, Tensor], config: LoraConfig
) -> LowRank:
    def of(module: str) -> list[Tensor]:
        return [tensors[f"{PREFIX}{module}.lora_{which}.weight"] for which in "AB"]

    if not target.experts or -1 in modules:
        a, b = of(modules[-1])
        if target.experts:
            a, b = a.unflatten(0, (target.experts, rank)), b.unflatten(1, (rank, target.experts)).permute(2, 0, 1)
        return LowRank(a.contiguous(), b.contiguous(), config.scale_of(key), target.rows_O)
    # Experts that the file leaves out have zeros: they are not changed, and training does not begin to.
    one = of(next(iter(modules.values())))
    a, b = (t.new_zeros(target.experts, *t.shape) for t in one)
    for e, module in modules.items():
        a[e], b[e] = of(module)
    return LowRank(a, b, config.scale_of(next(iter(modules.values()))), target.rows_O)


def _same(config: LoraConfig, modules: dict[int, str]) -> tuple[int, float]:
    first = next(iter(modules.values()))
    return config.rank_of(first), config.scale_of(first)


def _modules(path: Path, names: set[str]) -> list[str]:
    """The modules that the file has A and B for. Raises CheckpointError for any other tensor."""
    found: dict[str, set[str]] = {}
    for name in sorted(names):
        match = re.fullmatch(re.escape(PREFIX) + r"(.+)\.lora_([AB])\.weight", name)
        if match is None:
            raise CheckpointError(f"{path}: tensor {name} is no lora_A or lora_B of a projection; expected only those.")
        found.setdefault(match[1], set()).add(match[2])
    for module, both in found.items():
        if lacking := {"A", "B"} - both:
            raise CheckpointError(f"{path}: tensor {PREFIX}{module}.lora_{lacking.pop()}.weight is missing.")
    if not found:
        raise CheckpointError(f"{path}: holds no tensor; make the adapter again.")
    return list(found)


def _place(module: str, config: LoraConfig) -> tuple[str, int | None]:
    """(projection, expert of a file that has them one by one) of a module's name in the file."""
    if expert := EXPERT.fullmatch(module):
        return f"{expert[1]}.{expert[3]}", int(expert[2])
    if not module.removesuffix(".base_layer").endswith(".mlp.experts"):
        return module, None
    container = module.removesuffix(".base_layer")
    outer = named(f"{container}.down_proj", config.parameters) and container == module
    return f"{container}.{'down_proj' if outer else 'gate_up_proj'}", None


def read_lora_config(folder: Path) -> tuple[LoraConfig, str | None]:
    """(configuration, name of the base model) in an adapter folder. Raises ModelError naming what is not supported."""
    path = folder / CONFIG
    if not path.is_file():
        raise ModelError(f"{folder}: holds no {CONFIG}; expected an adapter folder as PEFT writes it.")
    try:
        raw = read_json(path)
    except DataError as error:
        raise ModelError(str(error)) from None
    if not isinstance(raw, dict) or raw.get("peft_type") != "LORA":
        said = raw.get("peft_type") if isinstance(raw, dict) else None
        raise ModelError(f"{path}: peft_type {said!r} is not supported; expected 'LORA'.")
    if raw.get("bias", "none") != "none":
        raise ModelError(f"{path}: bias {raw['bias']!r} is not supported; expected 'none'.")
    if str(raw.get("init_lora_weights")).startswith(OTHER_BASE):
        raise ModelError(
            f"{path}: init_lora_weights {raw['init_lora_weights']!r} changes the base model, too; convert the adapter "
            "with PEFT (path_initial_model_for_weight_conversion)."
        )
    for name, value in raw.items():
        if name not in INERT and value not in (None, False, {}, []):
            raise ModelError(f"{path}: {name} is {str(value)[:60]!r}, which is not supported; expected plain LoRA.")

    def take(name: str, sound: Any, wanted: str, default: Any) -> Any:
        value = raw.get(name)
        if value is None:
            return default
        if not sound(value):
            raise ModelError(f"{path}: {name} is {str(value)[:60]!r}; expected {wanted}.")
        return value

    def number(x: Any) -> bool:
        return isinstance(x, int | float) and not isinstance(x, bool) and abs(x) < 1e9

    def count(x: Any) -> bool:
        return number(x) and x == int(x) and x > 0

    def patterns(sound: Any) -> Any:
        return lambda x: isinstance(x, dict) and all(sound(v) and _compiles(k) for k, v in x.items())

    def listed(x: Any) -> bool:
        return isinstance(x, list) and all(isinstance(v, str) for v in x)

    modules = take("target_modules", lambda x: isinstance(x, str) or listed(x), "a list of names", [])
    base = raw.get("base_model_name_or_path")
    return LoraConfig(
        rank=int(take("r", count, "a positive whole number", 8)),
        alpha=float(take("lora_alpha", number, "a number", 8)),
        targets=(modules,) if isinstance(modules, str) else tuple(modules),
        parameters=tuple(take("target_parameters", listed, "a list of names", [])),
        rslora=bool(take("use_rslora", lambda x: isinstance(x, bool), "true or false", False)),
        ranks={k: int(v) for k, v in take("rank_pattern", patterns(count), "whole numbers by pattern", {}).items()},
        alphas=take("alpha_pattern", patterns(number), "numbers by pattern", {}),
    ), base if isinstance(base, str) else None


def _compiles(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except re.error:
        return False
    return True
