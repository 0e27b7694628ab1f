"""What transformers with compressed-tensors computes from int8 folders that Qwill wrote.

requirements: torch==2.13.0 transformers==5.23.0 compressed-tensors==0.20.0 safetensors numpy
run: python tests/oracles/make_model_int8_oracle.py   (after make_model_oracle.py; writes model_int8.json)

The folders are made by Qwill's own quantiser from tests/oracles/model/; only torch and safetensors are needed for that.
"""

import json
import sys
import tempfile
from pathlib import Path

import compressed_tensors
import torch
import transformers
from transformers import AutoModelForCausalLM

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent.parent / "src"))
from qwill.model.files import load_model, save_model  # noqa: E402
from qwill.model.quantize import quantize_folder  # noqa: E402

CASES = (("dense_tied_bias", "float32"), ("moe", "float32"), ("moe", "bfloat16"))

if __name__ == "__main__":
    torch.set_num_threads(1)
    out = {"versions": {"transformers": transformers.__version__, "compressed_tensors": compressed_tensors.__version__}}
    for case, dtype in CASES:
        with tempfile.TemporaryDirectory() as plain, tempfile.TemporaryDirectory() as folder:
            save_model(load_model(HERE / "model" / case, dtype), plain)
            quantize_folder(Path(plain), Path(folder))
            model, info = AutoModelForCausalLM.from_pretrained(
                folder, output_loading_info=True, dtype=dtype, experts_implementation="eager"
            )
            assert not any(info.values()), (case, info)
            logits = model(torch.arange(1, 20)[None]).logits[0, -1].float()
        out[f"{case} {dtype}"] = {"logits": logits.tolist()}
    (HERE / "model_int8.json").write_text(json.dumps(out, indent=1) + "\n")
