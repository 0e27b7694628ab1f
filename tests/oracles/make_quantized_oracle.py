"""What transformers with compressed-tensors computes from folders that Qwill quantised, in every form of int8 and int4.

requirements: torch==2.13.0 transformers==5.23.0 compressed-tensors==0.20.0 accelerate==1.15.0 safetensors numpy
run: python tests/oracles/make_quantized_oracle.py   (writes quantized.json and zero_points.safetensors.bin)

The models are made from a seed (tiny_models.py) and quantised by Qwill. zero_points.safetensors.bin is a matrix
that compressed-tensors packed with zero points, and what it unpacks it to.
"""

import json
import sys
import tempfile
from pathlib import Path

import compressed_tensors
import torch
import transformers
from compressed_tensors.compressors.pack_quantized import PackedQuantizationCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent.parent / "src"))
sys.path.insert(0, str(HERE))
from tiny_models import MODELS, TOKENS, tiny_folder  # noqa: E402

from qwill.model.quantize import Scheme, quantize_folder  # noqa: E402

SCHEMES = {
    "int8": {},
    "int8_bytes": {"format": "int-quantized"},
    "int4": {"bits": 4, "group_size": 32},
    "int4_rows": {"bits": 4},
    "int8_groups_bytes": {"group_size": 16, "format": "int-quantized"},
}


def logits(kind, scheme, dtype):
    with tempfile.TemporaryDirectory() as plain, tempfile.TemporaryDirectory() as folder:
        tiny_folder(kind, Path(plain), dtype)
        quantize_folder(Path(plain), Path(folder), scheme=Scheme(**scheme))
        model, info = AutoModelForCausalLM.from_pretrained(
            folder, output_loading_info=True, dtype=dtype, experts_implementation="eager"
        )
        assert not any(info.values()), (kind, scheme, info)
        return model(TOKENS).logits[0, -1].float().tolist()


def zero_points():
    args = QuantizationArgs(num_bits=4, type="int", symmetric=False, strategy="group", group_size=32)
    scheme, g = QuantizationScheme(targets=["Linear"], weights=args), torch.Generator().manual_seed(1)
    weight = torch.randn(64, 96, generator=g) + 0.7
    grouped = weight.view(64, 3, 32)
    low, high = grouped.amin(2).clamp(max=0), grouped.amax(2).clamp(min=0)
    scale = (high - low) / 15
    zero = (torch.round(-low / scale) - 8).to(torch.int8)
    state = {"weight": weight, "weight_scale": scale, "weight_zero_point": zero}
    packed = PackedQuantizationCompressor.compress(state, scheme)
    back = PackedQuantizationCompressor.decompress(packed, scheme)["weight"]
    assert float((back - weight).abs().max()) < float(scale.max())
    out = {name.removeprefix("weight_"): tensor.contiguous() for name, tensor in packed.items()}
    save_file(out | {"weight": back}, HERE / "zero_points.safetensors.bin")


if __name__ == "__main__":
    torch.set_num_threads(1)
    versions = {"transformers": transformers.__version__, "compressed_tensors": compressed_tensors.__version__}
    said = {
        f"{kind} {name} {dtype}": logits(kind, scheme, dtype)
        for kind in MODELS
        for name, scheme in SCHEMES.items()
        for dtype in ("float32", "bfloat16")
    }
    zero_points()
    record = {"versions": versions, "schemes": SCHEMES, "logits": said}
    (HERE / "quantized.json").write_text(json.dumps(record, indent=1) + "\n")
