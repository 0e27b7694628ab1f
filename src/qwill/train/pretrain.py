"""Stage `pretrain`: corpus and tokenizer → base model, compared with what compressors make of the very same bytes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from qwill.base.errors import ConfigError
from qwill.base.files import write_json
from qwill.base.stage import StageContext
from qwill.data.packing import RowLoader, TokenStore, tokenize_corpus
from qwill.evaluate.bits_per_byte import Compression, bits_per_byte
from qwill.model.config import ModelConfig
from qwill.model.files import load_model, save_model
from qwill.model.initial import init_weights
from qwill.model.rope import RopeScaling
from qwill.model.transformer import Transformer
from qwill.text.tokenizer import Tokenizer
from qwill.train.horizon import derive
from qwill.train.loop import train
from qwill.train.mesh import check_mesh, resolve_mesh
from qwill.train.ranks import current
from qwill.train.save_trained import kept_sampling
from qwill.train.settings import PretrainConfig
from qwill.train.step import StepData


def heldout_texts(corpus: Path, limit_bytes: int) -> dict[str, list[str]]:
    """Held-out documents by language, whole documents in file order up to about `limit_bytes` each."""
    import pyarrow.parquet as pq

    table = pq.read_table(corpus / "heldout.parquet", columns=["text", "language"])
    texts: dict[str, list[str]] = {}
    size: dict[str, int] = {}
    for text, language in zip(table["text"].to_pylist(), table["language"].to_pylist(), strict=True):
        if size.get(language, 0) < limit_bytes:
            texts.setdefault(language, []).append(text)
            size[language] = size.get(language, 0) + len(text.encode())
    return dict(sorted(texts.items()))


def lengthened(model: ModelConfig, config: PretrainConfig) -> ModelConfig:
    """`model` with positions stretched as `config.yarn` says, made for the longest context that anything asks for."""
    context = max(model.max_position_embeddings, config.context)
    if config.yarn is not None:
        trained = config.yarn.trained or model.max_position_embeddings
        context = max(context, round(trained * config.yarn.factor))
        model = model.with_(rope_scaling=RopeScaling("yarn", config.yarn.factor, trained))
    return model.with_(max_position_embeddings=context)


def run(config: PretrainConfig, ctx: StageContext) -> dict[str, Any]:
    tokenizer = Tokenizer.load(ctx.inputs["tokenizer"])
    start = load_model(ctx.inputs["start"]) if "start" in ctx.inputs else None
    derived = derive(config, tokenizer.padded_vocab_size, start.config if start else None)
    ranks = current()
    mesh = resolve_mesh(config.mesh, ranks.world if ranks else 1)
    check_mesh(mesh, derived.model)
    for sentence in derived.sentences:
        ctx.display.say(f"  {sentence}")

    def tokenized() -> TokenStore:
        return tokenize_corpus(ctx.inputs["corpus"] / "train.parquet", tokenizer, ctx.work / "tokens")

    store = ranks.first(tokenized) if ranks else tokenized()
    steps, batch_rows = derived.steps, derived.batch_rows
    loader = RowLoader(store, config.row_tokens, batch_rows, ctx.seed)
    model_config = lengthened(derived.model, config).with_(router_aux_loss_coef=config.balance)
    sampling = None
    if start is not None:
        sampling = kept_sampling(ctx.inputs["start"], start.config, tokenizer)
        model = start
        model.config = model_config
        if tokenizer.vocab_size > model_config.vocab_size:
            raise ConfigError(
                f"the tokenizer has {tokenizer.vocab_size} tokens and the model {ctx.inputs['start']} knows "
                f"{model_config.vocab_size}; name the model's own: inputs: {{tokenizer: {ctx.inputs['start']}}}."
            )
    else:
        model = Transformer(
            model_config.with_(
                eos_token_id=tokenizer.special("<|im_end|>"), pad_token_id=tokenizer.special("<|endoftext|>")
            )
        )
        init_weights(model, torch.Generator().manual_seed(ctx.seed))
    parallel = None
    if ranks is not None:
        from qwill.train.mesh import make_mesh
        from qwill.train.parallel import parallelize

        parallel = parallelize(model, make_mesh(mesh))
        ctx.display.say(f"  mesh: {parallel.mesh}")
    heldout = heldout_texts(ctx.inputs["corpus"], config.heldout_bytes)
    glimpse = heldout_texts(ctx.inputs["corpus"], config.validation_bytes)
    uniform = torch.full((batch_rows * config.row_tokens,), 1.0 / (batch_rows * config.row_tokens))

    def step_data(step: int) -> StepData:
        rows = loader.step(step)
        return StepData(rows.batch, rows.targets_N, uniform, f"rows {loader.row_indices(step)[:4]}… of the corpus")

    def validate(_: int) -> dict[str, Any]:
        scored = {k: bits_per_byte(model, tokenizer, v, config.row_tokens) for k, v in glimpse.items()}
        return {"bits_per_byte": {k: c.bits_per_byte for k, c in scored.items()}}

    history = train(
        model, steps, step_data, config.optimizer, config.schedule, config.balance, ctx, "pretrain",
        validate, max(1, steps // (config.validations + 1)), how=config.step, parallel=parallel,
    )  # fmt: skip
    final = _score(model, tokenizer, heldout, config.row_tokens, ctx)
    whole = model if parallel is None else parallel.whole_model()
    if whole is None:
        return {}  # rank 0 writes the artifact
    history.validation.append({"step": steps, "bits_per_byte": {k: c.bits_per_byte for k, c in final.items()}})
    comparison = compare(config, steps, ctx, loader, store, tokenizer, heldout, final)
    write_json(ctx.out / "training.json", history.thinned())
    write_json(ctx.out / "compression.json", comparison)
    save_model(whole, ctx.out, tokenizer, metadata={"recipe_id": ctx.recipe_id}, generation_config=sampling)
    return {
        "tokens": history.tokens,
        "bits_per_byte": {k: round(c.bits_per_byte, 4) for k, c in final.items()},
        "bits_per_byte_stderr": {k: round(c.stderr, 4) for k, c in final.items()},
        **{k: {lang: round(v, 4) for lang, v in comparison[k].items()} for k in config.baselines},
    }


def _score(
    model: Transformer, tokenizer: Tokenizer, texts: dict[str, list[str]], width: int, ctx: StageContext
) -> dict[str, Compression]:
    out = {}
    for language, documents in texts.items():
        size = sum(len(t.encode()) for t in documents)
        with ctx.display.stage(f"held-out bits per byte, {language}", total=size, unit="byte") as bar:
            out[language] = bits_per_byte(model, tokenizer, documents, width, progress=bar.update)
    return out


def compare(
    config: PretrainConfig,
    steps: int,
    ctx: StageContext,
    loader: RowLoader,
    store: TokenStore,
    tokenizer: Tokenizer,
    heldout: dict[str, list[str]],
    final: dict[str, Compression],
) -> dict[str, Any]:
    """Bits per byte of the model and of each baseline.

    xz and the byte 5-gram learn from exactly the bytes that the model consumed, the token 5-gram from the whole corpus.
    """
    import numpy as np

    from qwill.evaluate.compression import xz_bits_per_byte
    from qwill.evaluate.kneser_ney import KneserNey

    consumed: dict[int, list[tuple[int, int]]] = {}
    for document, a, b in loader.consumed(steps):
        consumed.setdefault(document, []).append((a, b))
    # A piece [a, b) predicts the tokens after each of its own; those are what it teaches.
    pieces: list[bytes] = []
    for document, spans in consumed.items():
        end = int(store.offsets[document + 1])
        merged: list[list[int]] = []
        for a, b in ((a + 1, min(b + 1, end)) for a, b in spans):
            if merged and merged[-1][1] == a:
                merged[-1][1] = b
            elif b > a:
                merged.append([a, b])
        pieces += [b"".join(tokenizer.token_bytes(int(t)) for t in store.tokens[a:b]) for a, b in merged]
    result: dict[str, Any] = {
        "model": {k: c.bits_per_byte for k, c in final.items()},
        "model_stderr": {k: c.stderr for k, c in final.items()},
        "heldout_bytes": {k: int(c.bytes_.sum()) for k, c in final.items()},
        "bytes_consumed": sum(map(len, pieces)),
    }
    raw = {k: [t.encode() for t in v] for k, v in heldout.items()}
    size = {k: sum(map(len, v)) for k, v in raw.items()}

    def as_bytes(text: bytes) -> np.ndarray:
        return np.frombuffer(text, dtype=np.uint8)

    with ctx.display.stage("baselines", total=len(config.baselines), unit="baseline") as bar:
        for i, name in enumerate(config.baselines):
            if name == "xz":
                with ThreadPoolExecutor(ctx.threads) as pool:  # lzma works outside the interpreter lock
                    sizes = pool.map(lambda v: xz_bits_per_byte(b"".join(pieces), b"".join(v)), raw.values())
                    result[name] = dict(zip(raw, sizes, strict=True))
            elif name == "kneser_ney_byte5":
                ngram = KneserNey.fit([as_bytes(p) for p in pieces], 5, 256)
                result[name] = {k: ngram.symbol_bits([as_bytes(t) for t in v]).sum() / size[k] for k, v in raw.items()}
            elif name == "kneser_ney_token5":
                bounds = zip(store.offsets, store.offsets[1:], strict=False)
                ngram = KneserNey.fit([np.asarray(store.tokens[a + 1 : b]) for a, b in bounds], 5, tokenizer.vocab_size)
                tokens = {k: [np.array(ids) for ids in tokenizer.encode_batch(v)] for k, v in heldout.items()}
                result[name] = {k: ngram.symbol_bits(v).sum() / size[k] for k, v in tokens.items()}
            bar.update(i + 1)
    return {k: {lang: float(x) for lang, x in v.items()} if isinstance(v, dict) else v for k, v in result.items()}
