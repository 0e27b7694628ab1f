"""Stage `dialogues`: conversations to fine-tune on, from instruction data in both languages and generated tasks.

Read and validate → cap the length → exact and near duplicates → decontaminate against the held-out tasks → cap each
source's share → split. Everything is decided by hashes of the conversations, so that the order of reading does not
matter; the first thing that a user says decides the side of the split, so that no prompt is on both.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from qwill.base.config import nearest
from qwill.base.errors import ConfigError, DataError
from qwill.base.files import write_json, write_jsonl, write_text
from qwill.base.packages import list_members, open_member
from qwill.base.stage import StageContext
from qwill.data import dialogue_readers as readers
from qwill.data.clusters import exact_duplicates, near_duplicates
from qwill.data.conversation import Conversation, user_texts, whole_text
from qwill.data.decontaminate import Index, Overlap, build_index, leak, read_questions
from qwill.data.documents import Document, Reject
from qwill.data.funnel import Account
from qwill.data.minhash import MinHash, fast_signatures, keys_of
from qwill.data.records import Bad
from qwill.data.registry_sources import CHATTERBOT, LLAMAFACTORY, Package
from qwill.data.sources import merge_origins
from qwill.data.units import hashes, split, text_key

STEPS = ("unreadable", "length", "exact_duplicates", "near_duplicates", "decontamination", "mixture")
TASKS = "demonstrations"


@dataclass(frozen=True)
class DialogueSource:
    """Files of a package that hold conversations; `members` is a path, or a folder ending in `/` for all its .yml."""

    name: str
    package: Package
    members: str
    reader: Callable[..., Iterator[Conversation | Bad]]
    language: str | None
    licence: str
    leave_out: tuple[str, ...] = ()


# chatterbot's botprofile says who its bot is, and ours is someone else; tech_support repeats ten pairs a hundred times.
_BOT = ("botprofile.yml",)
SOURCES: tuple[DialogueSource, ...] = (
    DialogueSource("alpaca_en", LLAMAFACTORY, "data/alpaca_en_demo.json", readers.read_alpaca, "en", "Alpaca-GPT-4 †"),
    DialogueSource("alpaca_zh", LLAMAFACTORY, "data/alpaca_zh_demo.json", readers.read_alpaca, "zh", "Alpaca-GPT-4 †"),
    DialogueSource(
        "identity", LLAMAFACTORY, "data/identity.json", readers.read_alpaca, None, "LLaMA-Factory, Apache-2.0"
    ),
    DialogueSource(
        "glaive_en", LLAMAFACTORY, "data/glaive_toolcall_en_demo.json", readers.read_glaive, "en", "Glaive †"
    ),
    DialogueSource(
        "glaive_zh", LLAMAFACTORY, "data/glaive_toolcall_zh_demo.json", readers.read_glaive, "zh", "Glaive †"
    ),
    DialogueSource(
        "chatterbot_en",
        CHATTERBOT,
        "chatterbot_corpus/data/english/",
        readers.read_chatterbot,
        "en",
        "BSD-3-Clause",
        _BOT,
    ),
    DialogueSource(
        "chatterbot_zh",
        CHATTERBOT,
        "chatterbot_corpus/data/chinese/",
        readers.read_chatterbot,
        "zh",
        "BSD-3-Clause",
        _BOT,
    ),
)


@dataclass(frozen=True)
class DialogueChoice:
    """One entry of `sources`: a name of SOURCES, `demonstrations` (of the stage tasks), or with `path` a .jsonl file of
    your own whose rows have `messages`. max_conversations: the most to take, those whose hashes are lowest."""

    name: str
    path: str | None = None
    max_conversations: int | None = None
    licence: str = "not stated"


def _every_source() -> list[DialogueChoice]:
    return [DialogueChoice(name) for name in (*(source.name for source in SOURCES), TASKS)]


def _authors() -> dict[str, str]:
    return {"en": "the Qwill project", "zh": "Qwill 项目"}


@dataclass(frozen=True)
class DialoguesConfig:
    """Section `dialogues` of a recipe.

    name, author: what the assistant says it is and who made it (author by language). max_bytes: of a conversation, all
    of it. heldout_share: of the prompts. near: near duplicates among what is not generated.
    """

    sources: list[DialogueChoice] = field(default_factory=_every_source)
    name: str = "Qwill"
    author: dict[str, str] = field(default_factory=_authors)
    max_bytes: int = 4000
    heldout_share: float = 0.03
    near: MinHash = field(default_factory=lambda: MinHash(bands=20, rows=6, mode="fast", verify=0.9))
    overlap: Overlap = field(default_factory=Overlap)
    rejects: int = 5

    def packages(self) -> list[Package]:
        """The packages that the named sources come from."""
        named = [choice.name for choice in self.sources if choice.path is None and choice.name != TASKS]
        return [find_source(name).package for name in named]


def find_source(name: str) -> DialogueSource:
    """The source of that name. Raises ConfigError with the nearest name."""
    for source in SOURCES:
        if source.name == name:
            return source
    raise ConfigError(f"{name!r} is no source and has no path; {nearest(name, [*(s.name for s in SOURCES), TASKS])}")


@dataclass(frozen=True)
class _HeldOut:
    """The held-out tasks: as text to be found, and the keys and prompts that make a task the same."""

    index: Index
    keys: set[str]
    prompts: set[str]


@dataclass
class _Row:
    conversation: Conversation
    document: Document

    @property
    def generated(self) -> bool:
        return self.document.register == TASKS


def run(config: DialoguesConfig, ctx: StageContext) -> dict[str, Any]:
    """Fill `ctx.out` with train.jsonl, heldout.jsonl, funnel.json, rejects.jsonl and sources.json.

    Raises ConfigError for a source that is not known, DataError naming file, line and field for tasks that are
    malformed; malformed conversations of other sources are counted, named in rejects.jsonl, and left out.
    """
    tasks = ctx.inputs["tasks"]
    questions = read_questions([tasks / "heldout.jsonl"])
    heldout = _HeldOut(
        build_index(questions, config.overlap),
        {question.key for question in questions if question.key is not None},
        {question.text for question in questions},
    )
    funnel = Account(STEPS, config.rejects)
    rows, origins = list[_Row](), list[dict[str, Any]]()
    with ctx.display.stage("dialogues", len(config.sources), "sources", ctx.budget_s) as bar:
        for number, choice in enumerate(_checked(config.sources), start=1):
            rows += _read(choice, config, tasks, funnel, origins)
            bar.update(number, conversations=len(rows))
        rows.sort(key=lambda row: row.document.id)
        rows = _drop(rows, funnel, _too_long(rows, config.max_bytes))
        rows = _drop(rows, funnel, _duplicates(rows, config))
        rows = _drop(rows, funnel, _leaks(rows, heldout))
        limits = {c.name: c.max_conversations for c in config.sources if c.max_conversations is not None}
        rows = _drop(rows, funnel, _over_limits(rows, limits))
    if not rows:
        raise DataError("no conversation is left; raise dialogues.max_bytes or add sources.")
    parts = _split(rows, config.heldout_share)
    account = funnel.close(row.document for row in rows)
    account["split"] = {part: len(chosen) for part, chosen in parts.items()}
    for part, chosen in parts.items():
        # Not write_jsonl, which sorts keys: a tool's name stands before its parameters, and so the model should see it.
        lines = (json.dumps(_record(row), ensure_ascii=False) for row in chosen)
        write_text(ctx.out / f"{part}.jsonl", "".join(line + "\n" for line in lines))
    write_json(ctx.out / "funnel.json", account)
    write_jsonl(ctx.out / "rejects.jsonl", funnel.sample())
    write_json(ctx.out / "sources.json", merge_origins(origins))
    return {f"{part}_conversations": len(chosen) for part, chosen in parts.items()}


def _checked(choices: Sequence[DialogueChoice]) -> Sequence[DialogueChoice]:
    names = [choice.name for choice in choices]
    for choice in choices:
        if names.count(choice.name) > 1:
            raise ConfigError(f"dialogues.sources names {choice.name!r} twice; give each entry its own name.")
        if choice.path is None and choice.name != TASKS:
            find_source(choice.name)
    return choices


def _read(
    choice: DialogueChoice, config: DialoguesConfig, tasks: Path, funnel: Account, origins: list[dict[str, Any]]
) -> list[_Row]:
    """The well-formed conversations of one source; its malformed ones go to the funnel."""
    rows = list[_Row]()
    for prefix, stated, conversations in _open(choice, config, tasks, origins):
        for found in conversations:
            language = stated or "other" if isinstance(found, Bad) else found.language
            text = found.content if isinstance(found, Bad) else whole_text(found)
            text = text.encode("utf-8", "replace").decode()
            document = Document(
                id=f"{choice.name}/{prefix}{int(found.record):06d}",
                source=choice.name,
                register=TASKS if choice.name == TASKS else "dialogue",
                language=language,
                text=text,
                raw_bytes=found.raw_bytes if isinstance(found, Bad) else len(text.encode()),
            )
            if isinstance(found, Bad):
                document.reject = Reject("unreadable", "malformed", found.reason)
            funnel.read(document)
            if not isinstance(found, Bad):
                rows.append(_Row(found, document))
    return rows


def _open(
    choice: DialogueChoice, config: DialoguesConfig, tasks: Path, origins: list[dict[str, Any]]
) -> Iterator[tuple[str, str | None, Iterator[Conversation | Bad]]]:
    """(prefix of the ids, language where the source states it, conversations) of each file of a source."""
    if choice.path is not None or choice.name == TASKS:
        path = Path(choice.path) if choice.path is not None else tasks / f"{TASKS}.jsonl"
        try:
            data = path.read_bytes()
        except OSError as error:
            raise DataError(
                f"source {choice.name}: {path} cannot be read ({error.strerror}); check the path."
            ) from None
        if choice.path is None:
            yield "", None, readers.read_demonstrations(data, str(path))
            return
        digest = hashlib.sha256(data).hexdigest()
        entry = {"name": path.name, "version": "", "sha256": digest, "paths": [path.name], "licence": choice.licence}
        origins.append(entry | {"source": choice.name})
        yield "", None, readers.read_messages(data, str(path), None)
        return
    source = find_source(choice.name)
    archive = source.package.archive()
    members = [source.members]
    if source.members.endswith("/"):
        names = sorted(name for name in list_members(archive) if name.startswith(source.members))
        members = [name for name in names if name.endswith(".yml") and not name.endswith(source.leave_out or ("\0",))]
    entry = {"name": source.package.name, "version": source.package.version, "sha256": source.package.sha256}
    origins.append(entry | {"paths": members, "licence": source.licence, "source": source.name})
    for member in members:
        where = f"{source.package.name} {source.package.version}: {member}"
        arguments: dict[str, Any] = {"language": source.language}
        if source.reader is readers.read_alpaca:
            arguments["names"] = {lang: {"name": config.name, "author": by} for lang, by in config.author.items()}
        prefix = f"{Path(member).stem}/" if len(members) > 1 else ""
        yield prefix, source.language, partial(source.reader, **arguments)(open_member(archive, member), where)


def _drop(rows: list[_Row], funnel: Account, rejects: Mapping[int, Reject]) -> list[_Row]:
    for i, reject in sorted(rejects.items()):
        funnel.drop(replace(rows[i].document, reject=reject))
    return [row for i, row in enumerate(rows) if i not in rejects]


def _too_long(rows: Sequence[_Row], most: int) -> dict[int, Reject]:
    sizes = [row.document.bytes for row in rows]
    return {i: Reject("length", f"more than {most} bytes", float(size)) for i, size in enumerate(sizes) if size > most}


def _duplicates(rows: Sequence[_Row], config: DialoguesConfig) -> dict[int, Reject]:
    """Equal conversations, and nearly equal ones where they are not generated.

    Equal means letter for letter: `3 - 2` and `3 + 2` have the same units. Generated tasks are alike on purpose.
    """
    if not rows:
        return {}
    ids = [row.document.id for row in rows]
    sizes = np.array([row.document.bytes for row in rows], dtype=np.int64)
    quality = np.zeros(len(rows), dtype=np.float32)
    keys = [hashlib.blake2b(row.document.text.encode(), digest_size=16).digest() for row in rows]
    found: dict[int, Reject] = {}
    with tempfile.TemporaryDirectory() as name:
        same = exact_duplicates([np.frombuffer(b"".join(keys), np.uint8).reshape(-1, 16)], quality, sizes, Path(name))
        for i in same.gone().tolist():
            like = f"1.00 like {ids[same.representative[i]]}"
            found[i] = Reject("exact_duplicates", "same conversation", like)
        units = [hashes(split(row.document.text)) for row in rows]
        offsets = np.cumsum([0, *map(len, units)])
        signatures, has = fast_signatures(np.concatenate([*units, hashes([])]), offsets, config.near)
        has &= [i not in found and not row.generated for i, row in enumerate(rows)]
        near = near_duplicates([keys_of(signatures, has, config.near)], quality, sizes, config.near, Path(name))
        for i in near.gone().tolist():
            like = f"{near.similarity[i]:.2f} like {ids[near.representative[i]]}"
            found[i] = Reject("near_duplicates", "nearly the same", like)
    return found


def _leaks(rows: Sequence[_Row], heldout: _HeldOut) -> dict[int, Reject]:
    """Conversations in which a held-out problem occurs: by its key, as a whole message, or in running text.

    Generated tasks share their phrasing with the held-out ones, so of them only problem and prompt are compared.
    """
    rejects: dict[int, Reject] = {}
    for i, row in enumerate(rows):
        prompts = user_texts(row.conversation)
        if row.generated:
            if row.conversation.key in heldout.keys or prompts[0] in heldout.prompts:
                rejects[i] = Reject("decontamination", "held-out problem", row.conversation.key or prompts[0])
            continue
        asked = next((heldout.index.keys[k] for k in map(text_key, prompts) if k in heldout.index.keys), None)
        if asked is not None:
            rejects[i] = Reject("decontamination", "asks an evaluation question", heldout.index.ids[asked])
        elif (match := leak(heldout.index, row.document.text)) is not None:
            rejects[i] = Reject("decontamination", "holds an evaluation question", f"{match.question}: {match.span}")
    return rejects


def _over_limits(rows: Sequence[_Row], limits: Mapping[str, int]) -> dict[int, Reject]:
    by_source: dict[str, list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        by_source[row.document.source].append(i)
    rejects: dict[int, Reject] = {}
    for source, most in limits.items():
        ranked = sorted(by_source[source], key=lambda i: _digest(rows[i].document.id))
        rejects |= {i: Reject("mixture", f"over the limit of {most}", float(len(ranked))) for i in ranked[most:]}
    return rejects


def _split(rows: Sequence[_Row], share: float) -> dict[str, list[_Row]]:
    """Rows by side: prompts whose hashes are lowest are held out, at least one when there are two."""
    keys = [text_key(user_texts(row.conversation)[0]) for row in rows]
    prompts = sorted(set(keys))
    count = min(max(round(share * len(prompts)), 1), len(prompts) - 1)
    heldout = set(prompts[:count])
    return {
        "train": [row for row, key in zip(rows, keys, strict=True) if key not in heldout],
        "heldout": [row for row, key in zip(rows, keys, strict=True) if key in heldout],
    }


def _digest(name: str) -> bytes:
    return hashlib.blake2b(name.encode(), digest_size=8).digest()


def _record(row: _Row) -> dict[str, Any]:
    record: dict[str, Any] = {
        "id": row.document.id,
        "source": row.document.source,
        "language": row.document.language,
        "messages": row.conversation.messages,
    }
    return record | {"tools": row.conversation.tools} if row.conversation.tools else record
