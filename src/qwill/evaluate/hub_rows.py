"""Examples of a data set of the Hugging Face Hub, from the Parquet files that the Hub makes of every public one.

A branch moves, a commit does not: `pin` turns what a task names into the commit that it is now, so that results say
which data they are of, and the same recipe id never stands for two of them.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwill.base.errors import SourceError
from qwill.base.files import canonical_json, sha256_file

PARQUET = "refs/convert/parquet"  # the branch with CONFIG/SPLIT/0000.parquet …


@dataclass(frozen=True)
class HubSplit:
    """One split of one data set, on this machine: its files, and the commit (40 hexadecimal digits) they are of."""

    repository: str
    config: str
    split: str
    commit: str
    folder: Path
    files: tuple[Path, ...]

    @property
    def origin(self) -> dict[str, Any]:
        """As a manifest's `sources` have it; the hash is of the files' names and hashes."""
        return {
            "name": self.repository,
            "version": self.commit,
            "registry": "hub",
            "source": [f"{self.config}/{self.split}"],
            "sha256": _hash(self.folder, self.files),
            "licence": "licence on its page there",
        }


def hub_split(source: Mapping[str, Any], name: str) -> HubSplit:
    """What `{hub: org/name, config: …, split: …, revision: …}` names, fetched unless the Hub's own cache has it. Unless
    given they are `default`, `test` and the branch of the Parquet files.

    Raises SourceError, naming the task, when the Hub can't be reached or has no such data set, revision or split.
    """
    repository, config = str(source["hub"]), str(source.get("config", "default"))
    split, revision = str(source.get("split", "test")), str(source.get("revision", PARQUET))
    wanted = f"{config}/{split}/*.parquet"
    folder = _snapshot(repository, revision, wanted, name)
    files = tuple(sorted(folder.glob(wanted)))
    if not files:
        raise SourceError(
            f"task {name}: {repository} has no {config}/{split} at {revision}; check config and split in its source."
        )
    return HubSplit(repository, config, split, folder.name, folder, files)


def cached_hash(origin: Mapping[str, Any]) -> str | None:
    """The hash of the files of an `origin`, as they are in the Hub's cache on this machine; None where they are not."""
    try:
        from huggingface_hub import constants
    except ImportError:
        return None
    name = "datasets--" + str(origin["name"]).replace("/", "--")
    folder = Path(constants.HF_HUB_CACHE) / name / "snapshots" / str(origin["version"])
    files = tuple(sorted(file for split in origin["source"] for file in folder.glob(f"{split}/*.parquet")))
    return _hash(folder, files) if files else None


def _hash(folder: Path, files: Sequence[Path]) -> str:
    hashes = {str(file.relative_to(folder)): sha256_file(file) for file in files}
    return hashlib.sha256(canonical_json(hashes)).hexdigest()


def pin(source: Mapping[str, Any], name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The source with the commit as its revision, and its origin. Raises SourceError as `hub_split` does."""
    found = hub_split(source, name)
    return {**source, "revision": found.commit}, found.origin


def hub_rows(source: Mapping[str, Any], name: str) -> Iterator[dict[str, Any]]:
    """The rows of a split, in order. Raises SourceError as `hub_split` does, and for a file that is damaged."""
    return (row for file in hub_split(source, name).files for row in _read(file, name))


def _snapshot(repository: str, revision: str, wanted: str, name: str) -> Path:
    try:
        from huggingface_hub import errors, snapshot_download
        from huggingface_hub.utils import logging
        from huggingface_hub.utils.tqdm import disable_progress_bars
    except ImportError:
        raise SourceError(
            f"task {name}: {repository} is on the Hugging Face Hub, and huggingface_hub is not installed; "
            "run: pip install huggingface_hub."
        ) from None
    logging.set_verbosity_error()  # what it warns of is said here, in one sentence
    if not sys.stderr.isatty():
        disable_progress_bars()
    try:
        return Path(snapshot_download(repository, repo_type="dataset", revision=revision, allow_patterns=wanted))
    except errors.GatedRepoError:
        trouble = f"{repository} is given only to those who accept its terms on the Hugging Face Hub; do so, and log in"
        raise SourceError(f"task {name}: {trouble} with: hf auth login.") from None
    except (errors.RepositoryNotFoundError, errors.HFValidationError):
        trouble = f"the Hugging Face Hub has no data set {repository}, or it is private; check source.hub"
        raise SourceError(f"task {name}: {trouble}.") from None
    except errors.RevisionNotFoundError:
        trouble = f"{repository} has no revision {revision} on the Hugging Face Hub; check source.revision"
        raise SourceError(f"task {name}: {trouble}.") from None
    except Exception as error:  # its other errors, those of its HTTP library, the operating system's
        raise SourceError(
            f"task {name}: {repository} can't be had from the Hugging Face Hub ({_reason(error)}) and is not in its "
            "cache on this machine; check the network (and HF_ENDPOINT for a mirror), or choose another task."
        ) from None


def _reason(error: Exception) -> str:
    first = next(iter(str(error).splitlines()), "").removeprefix("Got: ").rstrip(". ")
    if "outgoing traffic has been disabled" in first:
        return "HF_HUB_OFFLINE is set"
    return first or type(error).__name__


def _read(file: Path, name: str) -> Iterator[dict[str, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        for batch in pyarrow.parquet.ParquetFile(file).iter_batches():
            yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise SourceError(f"task {name}: {file} can't be read ({error}); delete it and fetch it again.") from None
