"""Examples of a data set of the Hugging Face Hub, from the Parquet files that the Hub makes of every public one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from qwill.base.errors import SourceError

PARQUET = "refs/convert/parquet"  # the branch with CONFIG/SPLIT/0000.parquet …


def hub_rows(source: Mapping[str, Any], name: str) -> Iterator[dict[str, Any]]:
    """The rows of `{hub: org/name, config: …, split: …, revision: …}`, in order; what has been fetched once is read
    from the Hub's own cache. Unless given they are `default`, `test` and the branch of the Parquet files.

    Raises SourceError, naming the task, when the Hub can't be reached or has no such data set, config or split.
    """
    repository, config = str(source["hub"]), str(source.get("config", "default"))
    split, revision = str(source.get("split", "test")), str(source.get("revision", PARQUET))
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise SourceError(
            f"task {name}: {repository} is on the Hugging Face Hub, and huggingface_hub is not installed; "
            "run: pip install huggingface_hub."
        ) from None
    wanted = f"{config}/{split}/*.parquet"
    try:
        folder = snapshot_download(repository, repo_type="dataset", revision=revision, allow_patterns=wanted)
    except Exception as error:  # its own errors, those of its HTTP library, the operating system's
        reason = next(iter(str(error).splitlines()), "").rstrip(". ") or type(error).__name__
        raise SourceError(
            f"task {name}: {repository} can't be had from the Hugging Face Hub ({reason}); check the network, or "
            "choose another task."
        ) from None
    files = sorted(Path(folder).glob(wanted))
    if not files:
        raise SourceError(f"task {name}: {repository} has no {config}/{split}; check config and split in its source.")
    return (row for file in files for row in _read(file, name))


def _read(file: Path, name: str) -> Iterator[dict[str, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        for batch in pyarrow.parquet.ParquetFile(file).iter_batches():
            yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise SourceError(f"task {name}: {file} can't be read ({error}); delete it and fetch it again.") from None
