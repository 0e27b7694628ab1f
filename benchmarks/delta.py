"""Gated DeltaNet's rule, forward and backward: ours against transformers' PyTorch path; and its cost over length.

    .venv/bin/python benchmarks/delta.py --peer-python PYTHON_WITH_TRANSFORMERS [--rounds 6] [--longest 65536]

One sequence of 4,096 tokens, 4 key heads and 8 value heads of 128 and of 64, float32, with 2 threads and with 1. Same
seeded inputs; outputs and gradients are compared first. Rounds alternate in one process tree; rounds with more than
10 % of the CPU stolen are thrown away. Claim: at least 3 times the peer's speed. Then the rule from 1,024 to 65,536
tokens, beside causal attention with the same heads as far as that is affordable, drawn to docs/images/delta-cost.svg.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path

from compare import Worker, alternate, describe, write_section

from qwill.base.files import write_text
from qwill.evaluate.plots import Series, line_chart

PEER = Path(__file__).parent / "peers" / "transformers_delta.py"
PICTURE = Path(__file__).parent.parent / "docs" / "images" / "delta-cost.svg"
TOKENS, KEY_HEADS, HEADS = 4096, 4, 8
CASES = [(width, threads) for width in (128, 64) for threads in (2, 1)]
LONGEST_ATTENTION = 16384  # about 10 s there, and 16 times that at 65,536
STYLE = """<style>
text { font: 11px system-ui, sans-serif; fill: #57606a } .line { fill: none; stroke-width: 2 }
.gridline { stroke: #8c959f; stroke-opacity: .3 } .line.ours { stroke: #0a7d5a } .dot.ours, text.ours { fill: #0a7d5a }
.line.other { stroke: #b35900 } .dot.other, text.other { fill: #b35900 }
@media (prefers-color-scheme: dark) { text { fill: #9da7b3 } .line.ours { stroke: #3fcf9f } .dot.ours, text.ours
{ fill: #3fcf9f } .line.other { stroke: #f0a35e } .dot.other, text.other { fill: #f0a35e } }
</style>"""


def work(width: int, threads: int) -> None:
    """Our side: a line `go`, `definition N`, `rule N` or `attention N` is answered with the seconds of one pass."""
    import torch

    from qwill.model import delta, ops
    from qwill.model.batch import Batch, plan_attention

    torch.set_num_threads(threads)

    def prepare(tokens: int) -> tuple[list[torch.Tensor], torch.Tensor]:
        g = torch.Generator().manual_seed(0)
        q, k, v = (torch.randn(tokens, h, width, generator=g) for h in (KEY_HEADS, KEY_HEADS, HEADS))
        log_decay, beta = (torch.rand(tokens, HEADS, generator=g) for _ in range(2))
        projection = torch.randn(tokens, HEADS, width, generator=g)
        return [x.requires_grad_() for x in (q, k, v, -log_decay, beta)], projection

    def step(leaves: list[torch.Tensor], projection: torch.Tensor, attention: bool = False) -> float:
        tokens = len(projection)
        if attention:
            plan = plan_attention(Batch.rows(torch.zeros(1, tokens, dtype=torch.int64)), torch.float32)
            queries = torch.cat([leaves[0], leaves[0]], 1)
            out = ops.attention(queries, leaves[1], leaves[2][:, :KEY_HEADS], plan).view(tokens, HEADS, width)
        else:
            out, _ = delta.gated_delta(*leaves, torch.tensor([0, tokens], dtype=torch.int32))
        out.backward(projection)
        size = float(out.detach().norm()) + sum(float(x.grad.norm()) for x in leaves if x.grad is not None)
        for x in leaves:
            x.grad = None
        return size

    inputs = prepare(TOKENS)
    print(json.dumps({"ready": True, "size": step(*inputs)}), flush=True)
    for line in sys.stdin:
        word, *rest = line.split()
        data = prepare(int(rest[0])) if rest else inputs
        ops.use_native(word != "definition")
        seconds = []
        for _ in range(1 if word == "go" else 3):
            started = time.perf_counter()
            step(*data, attention=word == "attention")
            seconds.append(time.perf_counter() - started)
        print(json.dumps({"seconds": min(seconds)}), flush=True)


def exponent(points: list[tuple[int, float]]) -> float:
    """Slope of log seconds over log tokens, least squares."""
    xs, ys = [math.log(n) for n, _ in points], [math.log(s) for _, s in points]
    x, y = sum(xs) / len(xs), sum(ys) / len(ys)
    return sum((a - x) * (b - y) for a, b in zip(xs, ys, strict=True)) / sum((a - x) ** 2 for a in xs)


def picture(rule: list[tuple[int, float]], attention: list[tuple[int, float]]) -> str:
    """The chart as a file of its own: with colours, and its lines named where they end."""
    lines = [Series("Gated DeltaNet", rule, "ours"), Series("causal attention", attention, "other")]
    title = "Seconds of one layer's forward and backward pass over the length of the sequence"
    body = line_chart(title, lines, "tokens", "seconds, forward + backward", from_zero=True)
    body = body.replace('<svg class="plot"', '<svg xmlns="http://www.w3.org/2000/svg" width="680"', 1)
    # Each name beside its line's end, whose place follows from line_chart's margins.
    most, longest = max(y for _, y in rule + attention), max(x for x, _ in rule + attention)
    names = ""
    for line, anchor, right, down in zip(lines, ("end", "start"), (0, 8), (-8, 4), strict=True):
        x, y = line.points[-1]
        place = f'x="{40 + 290 * x / longest + right:.0f}" y="{176 - 145 * y / most + down:.0f}"'
        names += f'<text {place} text-anchor="{anchor}" class="{line.css}">{line.name}</text>'
    return body.replace("</title>", "</title>" + STYLE, 1).replace("</svg>", names + "</svg>\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--longest", type=int, default=65536)
    parser.add_argument("--worker", nargs=2, metavar=("WIDTH", "THREADS"))
    arguments = parser.parse_args()
    if arguments.worker:
        work(*map(int, arguments.worker))
        return
    assert arguments.peer_python
    parts = []
    for width, threads in CASES:
        shape = [str(n) for n in (TOKENS, KEY_HEADS, HEADS, width, threads)]
        ours = Worker([sys.executable, __file__, "--worker", str(width), str(threads)])
        with ours, Worker([arguments.peer_python, str(PEER), *shape]) as peer:
            assert abs(ours.first["size"] - peer.first["size"]) < 1e-5 * peer.first["size"], (ours.first, peer.first)
            rounds = alternate(ours, peer, arguments.rounds)
            definition = ours.ask(f"definition {TOKENS}")["seconds"]
        part = describe(
            rounds,
            f"Forward and backward of the rule, {KEY_HEADS} key and {HEADS} value heads of {width}, {threads} "
            f"thread{'s' if threads > 1 else ''}, transformers {peer.first['version']}",
            work=TOKENS, unit="tokens/s", claim=3.0,
        )  # fmt: skip
        parts.append(f"{part} Our own PyTorch definition: {TOKENS / definition:.0f} tokens/s.")
        print(parts[-1], flush=True)
    lengths = [1024 << i for i in range(12) if 1024 << i <= arguments.longest]
    with Worker([sys.executable, __file__, "--worker", "128", "2"]) as ours:
        rule = [(n, ours.ask(f"rule {n}")["seconds"]) for n in lengths]
        attention = [(n, ours.ask(f"attention {n}")["seconds"]) for n in lengths if n <= LONGEST_ATTENTION]
    write_text(PICTURE, picture(rule, attention))
    linear, square = (", ".join(f"{n}: {1e6 * s / n:.1f}" for n, s in points) for points in (rule, attention))
    parts.append(
        f"Cost over length, heads of 128, 2 threads, µs a token, best of three. Gated DeltaNet {linear}; "
        f"fitted, seconds grow as tokens^{exponent(rule):.2f}. Causal attention {square}; "
        f"tokens^{exponent(attention):.2f}.\n\n![Cost over length](../docs/images/{PICTURE.name})"
    )
    print(parts[-1])
    write_section("Gated DeltaNet", "\n\n".join(parts))


if __name__ == "__main__":
    main()
