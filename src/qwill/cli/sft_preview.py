"""`qwill sft CONFIG --preview`: what a model would be trained on, token by token, before anything is trained."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwill.base.errors import ConfigError
from qwill.workflow.recipe import Recipe, Section, load_recipe
from qwill.workflow.run import make_plan

if TYPE_CHECKING:
    from rich.text import Text

    from qwill.text.chat import Rendered
    from qwill.text.tokenizer import Tokenizer
    from qwill.train.settings import SFTConfig
    from qwill.train.sft_examples import Examples

OPEN, CLOSE = "⟦", "⟧"
STYLES = {(False, False): "dim", (True, False): "black on green", (False, True): "magenta", (True, True): "bold on red"}
# What would steer the terminal is shown as its picture; a line break keeps its place behind one.
_PICTURES = (
    {i: chr(0x2400 + i) for i in range(32) if chr(i) not in "\n\t"} | {0x7F: "␡"} | {i: "�" for i in range(0x80, 0xA0)}
)


@dataclass(frozen=True)
class Piece:
    """Neighbouring tokens of one kind, as text. A special token's name that is mere text has a backslash before it."""

    text: str
    trained: bool
    special: bool


def pieces_of(example: Rendered, tokenizer: Tokenizer) -> list[Piece]:
    """An example's tokens in order; joined, the texts are the example."""
    special = frozenset(tokenizer.specials.values())
    names = re.compile("|".join(map(re.escape, sorted(tokenizer.specials, key=len, reverse=True))) or "(?!)")
    kinds = ((i, bool(m), i in special) for i, m in zip(example.ids, example.loss_mask, strict=True))
    pieces = []
    for (trained, mark), run in groupby(kinds, key=lambda kind: kind[1:]):
        text = tokenizer.decode([i for i, *_ in run], skip_special=False)
        pieces.append(Piece(text if mark else names.sub(lambda found: "\\" + found.group(), text), trained, mark))
    return pieces


def coloured(pieces: Sequence[Piece]) -> Text:
    """For a terminal: trained on green, special tokens in colours of their own."""
    from rich.text import Text

    text = Text()
    for piece in pieces:
        text.append(_visible(piece.text), style=STYLES[piece.trained, piece.special])
    return text


def marked(pieces: Sequence[Piece]) -> str:
    """Without colour: what is trained between brackets."""
    out = ""
    for trained, run in groupby(pieces, key=lambda piece: piece.trained):
        text = _visible("".join(piece.text for piece in run))
        out += f"{OPEN}{text}{CLOSE}" if trained else text
    return out


def _visible(text: str) -> str:
    return text.translate(_PICTURES).replace("\n", "↵\n")


def preview_examples(path: Path, overrides: Sequence[str], count: int, as_json: bool) -> int:
    """Show the first `count` examples of what a recipe's section `sft` trains on, and counts of all of them; of every
    such section where several use the stage."""
    recipe = load_recipe(path, overrides, only="sft")
    sections = [section for section in recipe.sections if section.stage.name == "sft"]
    if not sections:
        raise ConfigError(f"{path}: `qwill sft` needs a section 'sft:', and the recipe has none.")
    found = {section.name: _preview(recipe, section, count) for section in sections}
    if as_json:
        told = {name: {"examples": [_as_json(one) for one in shown], **of} for name, (shown, of) in found.items()}
        print(json.dumps(told if len(told) > 1 else next(iter(told.values())), ensure_ascii=False, indent=2))
        return 0
    for name, (shown, totals) in found.items():
        if len(found) > 1:
            print(f"{name}:\n")
        _print(shown, totals)
    return 0


def _preview(recipe: Recipe, section: Section, count: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    from qwill.train.sft_examples import read_examples

    inputs = make_plan(recipe, section).inputs
    tokenizer = tokenizer_of(inputs["base"])
    train, heldout = read_examples(inputs["dialogues"], tokenizer, section.config, section.seed)
    shown = [
        {"id": name, "place": place, "example": example, "pieces": pieces_of(example, tokenizer)}
        for name, place, example in zip(train.names, train.places, train.rendered[:count], strict=False)
    ]
    return shown, _totals(train, heldout, section.config, section.seed)


def tokenizer_of(path: Path) -> Tokenizer:
    """The tokenizer of a model, be it a folder or a file."""
    from qwill.text.tokenizer import Tokenizer

    if path.is_dir():
        return Tokenizer.load(path)
    from qwill.engine.language_model import load

    return load(path).tokenizer


def _totals(train: Examples, heldout: Examples, config: SFTConfig, seed: int) -> dict[str, Any]:
    from qwill.train.best_fit import pack_best_fit

    packing = pack_best_fit([len(e.ids) - 1 for e in train.rendered], config.batch_tokens, seed, epochs=1)
    steps = packing.epoch_steps[0]
    return {
        "count": len(train.rendered), "heldout": len(heldout.rendered), "too_long": train.too_long, "cut": train.cut,
        "unwanted": train.unwanted, "thinking_left_out": train.unwritten,
        "heldout_files": [file.name for file in heldout.files], "tokens": train.tokens, "trained_tokens": train.trained,
        "steps_an_epoch": steps, "fill": round(packing.fill, 4),
        "epochs": config.epochs or round(config.steps / steps, 2),
    }  # fmt: skip


def _as_json(one: dict[str, Any]) -> dict[str, Any]:
    example: Rendered = one["example"]
    return {
        "id": one["id"], "place": one["place"], "tokens": len(example.ids), "trained_tokens": sum(example.loss_mask),
        "ids": example.ids, "loss_mask": example.loss_mask, "pieces": [asdict(piece) for piece in one["pieces"]],
    }  # fmt: skip


def _print(shown: Sequence[dict[str, Any]], totals: dict[str, Any]) -> None:
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False)
    colour = console.is_terminal and not console.no_color
    for number, one in enumerate(shown, start=1):
        example: Rendered = one["example"]
        console.print(
            f"{number} of {totals['count']:,} · {one['place']} · {len(example.ids)} tokens, "
            f"{sum(example.loss_mask)} trained", style="bold", soft_wrap=True,
        )  # fmt: skip
        console.print(coloured(one["pieces"]) if colour else marked(one["pieces"]), soft_wrap=True)
        console.print()
    trained = coloured([Piece("trained", True, False)]) if colour else f"{OPEN}trained{CLOSE}"
    console.print(trained, "are", f"{totals['trained_tokens']:,} of {totals['tokens']:,} tokens", soft_wrap=True)
    said = [f"{totals['count']:,} examples", f"{totals['heldout']:,} held out", f"{totals['too_long']:,} too long"]
    more = {"cut": "texts cut", "unwanted": "labelled false", "thinking_left_out": "without their thinking"}
    said += [f"{totals[name]:,} {what}" for name, what in more.items() if totals[name]]
    console.print(" · ".join(said), soft_wrap=True)
    if totals["heldout_files"]:
        console.print(f"held out: {', '.join(totals['heldout_files'])}", soft_wrap=True)
    console.print(
        f"{totals['steps_an_epoch']:,} steps an epoch, {totals['fill']:.1%} full; the recipe's are "
        f"{totals['epochs']:g} epochs", soft_wrap=True,
    )  # fmt: skip
