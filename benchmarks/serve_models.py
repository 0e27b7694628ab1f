"""Two tiny Qwen3 folders to serve: one of random weights, and one whose weights were written by hand to recite.

The random one says anything, so that it tells a wrong cache, mask or position at once. The reciting one answers as a
trained assistant would, always in the same words, which a test can know beforehand:

- it thinks (`THOUGHT`) unless the prompt holds an empty thinking block,
- given tools it makes two calls (`CALLS`), given their results it says `RESULT`, otherwise `GREETING`.

How: embeddings are one-hot, the head maps every token to its successor; the one attention layer averages over the whole
prompt (its queries are 0) and so tells which special tokens are in it, which decides how a reply goes on after the line
break behind `assistant`. Letters: V vocabulary, D hidden.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

from qwill.model.config import ModelConfig
from qwill.model.files import save_model
from qwill.model.lora import new_adapter
from qwill.model.lora_config import LoraConfig
from qwill.model.lora_files import save_adapter
from qwill.model.transformer import Transformer
from qwill.text.tokenizer import Tokenizer
from qwill.text.vocabulary import to_characters

THOUGHT = "The user is waiting; 我想一想。"
GREETING = "Hello! 你好，很高兴认识你。 How can I help?"
RESULT = "It is sunny in Paris, 北京现在八点。"
CALLS = [("get_weather", {"location": "Paris"}), ("get_time", {"place": "北京"})]
LONG_PROMPT = 4096  # up to this many tokens one special token in the prompt is noticed


def calls_text() -> str:
    calls = [json.dumps({"name": name, "arguments": given}, ensure_ascii=False) for name, given in CALLS]
    return "\n".join(f"<tool_call>\n{call}\n</tool_call>" for call in calls)


def byte_tokenizer(more: list[bytes]) -> Tokenizer:
    """One token a byte, then `more` tokens that no text is encoded to, then Qwen3's special tokens."""
    vocabulary = {to_characters(bytes([b])): b for b in range(256)}
    for token in more:
        vocabulary[to_characters(token)] = len(vocabulary)
    return Tokenizer.from_trained(vocabulary, [])


def config_of(tokenizer: Tokenizer, hidden: int, layers: int, context: int) -> ModelConfig:
    # No rows behind the vocabulary: in a random model they would be as likely as tokens that have a text.
    return ModelConfig(
        model_type="qwen3", vocab_size=tokenizer.vocab_size, hidden_size=hidden, num_hidden_layers=layers,
        num_attention_heads=4, num_key_value_heads=2, head_dim=32, intermediate_size=2 * hidden,
        max_position_embeddings=context, tie_word_embeddings=False, eos_token_id=tokenizer.stop_ids,
        bos_token_id=None, pad_token_id=tokenizer.special("<|endoftext|>"),
    )  # fmt: skip


def write_random(folder: Path, context: int = 2048, seed: int = 0) -> Path:
    """A folder with a random model of two layers, norms away from 1 and wide logits; greedy as it comes."""
    tokenizer = byte_tokenizer([])
    model = Transformer(config_of(tokenizer, 64, 2, context)).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "norm" in name:
                p.copy_(0.5 + torch.rand(p.shape, generator=generator))
            else:
                p.copy_(torch.randn(p.shape, generator=generator) * p.shape[-1] ** -0.5)
        model.embed_tokens.weight.mul_(8)
        assert model.lm_head is not None
        model.lm_head.weight.mul_(4)
    save_model(model, folder, tokenizer, generation_config={"temperature": 0.0})
    return folder


def write_adapters(base: Path, folder: Path, count: int) -> list[Path]:
    """`count` random LoRA adapters for the model in `base`, strong enough that each changes what is said."""
    from qwill.model.files import load_model

    model = load_model(base)
    folders = []
    for i in range(count):
        adapter = new_adapter(model, LoraConfig(rank=4, alpha=8), torch.Generator().manual_seed(100 + i))
        generator = torch.Generator().manual_seed(200 + i)
        for part in adapter.parts.values():
            with torch.no_grad():
                part.b.copy_(torch.randn(part.b.shape, generator=generator) * 0.3)
        save_adapter(adapter, folder / f"adapter-{i}", base=str(base))
        folders.append(folder / f"adapter-{i}")
    return folders


def unique_chunks(texts: list[str], length: int = 5) -> list[list[bytes]]:
    """Texts cut into pieces of about `length` bytes (also inside characters), no two of them the same."""
    seen: set[bytes] = set()
    cut = []
    for text in texts:
        rest, chunks = text.encode(), []
        while rest:
            size = max(2, length)
            while rest[:size] in seen and size < len(rest):
                size += 1
            chunk, rest = rest[:size], rest[size:]
            if len(rest) == 1 or rest in seen:
                chunk, rest = chunk + rest, b""
            if chunk in seen:
                raise ValueError(f"{text!r} ends as another text does: {chunk!r}")
            seen.add(chunk)
            chunks.append(chunk)
        cut.append(chunks)
    return cut


def write_reciting(folder: Path, context: int = 4096) -> Path:
    """A folder with the model that recites."""
    thought, greeting, result, calls = unique_chunks(["\n" + THOUGHT + "\n", GREETING, RESULT, calls_text()])
    behind = b"\n\n"  # what follows </think>: a token of its own, where a reply goes on as behind `assistant`
    more = [*thought, *greeting, *result, *calls, behind]
    tokenizer = byte_tokenizer(more)
    number = {token: 256 + i for i, token in enumerate(more)}
    hidden = tokenizer.padded_vocab_size + 128
    config = config_of(tokenizer, hidden, 1, context)
    model = Transformer(config).eval()
    width, marks = config.head_dim, ["<tool_call>", "<tool_response>", "</think>"]
    features = [tokenizer.padded_vocab_size + i for i in range(len(marks))]

    successor: dict[int, int] = {}
    think, end = tokenizer.special("<think>"), tokenizer.special("<|im_end|>")
    for chunks, last in ((greeting, end), (result, end), (calls, end), (thought, tokenizer.special("</think>"))):
        ids = [number[chunk] for chunk in chunks]
        successor.update(zip(ids, [*ids[1:], last], strict=True))
    successor |= {think: number[thought[0]], tokenizer.special("</think>"): number[behind]}
    branches = [ord("\n"), number[behind]]

    with torch.no_grad():
        for name, p in model.named_parameters():
            p.fill_(1.0 if "norm" in name else 0.0)
        model.embed_tokens.weight[:, : config.vocab_size] = torch.eye(config.vocab_size)
        attention = model.layers[0].self_attn
        values = (config.num_attention_heads + config.num_key_value_heads) * width  # rows of q and k come first
        for i, (mark, feature) in enumerate(zip(marks, features, strict=True)):
            # The norm before it makes sqrt(D) of a one-hot 1.
            attention.qkv_proj.weight[values + i, tokenizer.special(mark)] = hidden**-0.5
            attention.o_proj.weight[feature, i] = 1.0
        assert model.lm_head is not None
        head_VD, (tools, answered, thought_over) = model.lm_head.weight, features
        for token, following in successor.items():
            head_VD[following, token] = 1e8
        # Where it has nothing to recite (a text without a template, a constraint), it ends strings, then objects, and
        # writes no blanks, so that JSON of any schema comes to an end.
        for characters, liking in (('"', 0.5), ("}", 0.25), (" \t\r\n", -0.5)):
            head_VD[[ord(c) for c in characters], : config.vocab_size] += liking
        # A feature is at least 1 / LONG_PROMPT and hardly above 0.1: each line below beats the one before it.
        begin = [number[chunks[0]] for chunks in (greeting, calls, result)]
        elsewhere = [i for i in range(config.vocab_size) if i not in branches]
        for token in (*begin, think):
            head_VD[token, elsewhere] = -1e9  # a reply begins at its place only, not within a constrained string
        head_VD[begin[0], branches] = 1.0
        head_VD[begin[1], tools], head_VD[begin[1], answered] = 1e5, -1e9
        head_VD[begin[2], answered] = 1e6
        head_VD[think, branches[0]], head_VD[think, thought_over] = 1e6, -1e10
    save_model(model, folder, tokenizer, generation_config={"temperature": 0.0})
    return folder
