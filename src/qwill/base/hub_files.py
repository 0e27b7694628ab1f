"""One file of a data set on the Hugging Face Hub: `hub:ORG/NAME/PATH`, with `@REVISION` where a branch may move."""

from __future__ import annotations

import re
from pathlib import Path

from qwill.base.errors import ArtifactError

PREFIX = "hub:"
_REFERENCE = re.compile(r"hub:([^/@\s]+/[^/@\s]+)/([^@\s]+?)(?:@(\S+))?")


def hub_file(reference: str) -> Path:
    """The file on this machine, fetched unless the Hub's own cache has it.

    The Parquet files that the Hub makes of every public data set are on a branch:
    `hub:ORG/NAME/default/train/0000.parquet@refs/convert/parquet`. Raises ArtifactError when there is no such file or
    the Hub can't be reached.
    """
    found = _REFERENCE.fullmatch(reference)
    if found is None:
        raise ArtifactError(f"{reference}: expected hub:ORG/NAME/PATH or hub:ORG/NAME/PATH@REVISION.")
    repository, path, revision = found.groups()
    try:
        from huggingface_hub import errors, hf_hub_download
        from huggingface_hub.utils import logging
    except ImportError:
        raise ArtifactError(
            f"{reference}: huggingface_hub is not installed; run: pip install huggingface_hub."
        ) from None
    logging.set_verbosity_error()  # what it warns of is said here, in one sentence
    try:
        return Path(hf_hub_download(repository, path, repo_type="dataset", revision=revision))
    except errors.GatedRepoError:
        raise ArtifactError(
            f"{reference}: given only to those who accept its terms on the Hugging Face Hub; do so, and log in with: "
            "hf auth login."
        ) from None
    except (errors.RepositoryNotFoundError, errors.HFValidationError):
        trouble = f"the Hugging Face Hub has no data set {repository}, or it is private"
    except errors.RevisionNotFoundError:
        trouble = f"{repository} has no revision {revision}"
    except errors.LocalEntryNotFoundError:
        trouble = "the Hub can't be reached and the file is not in its cache on this machine; check the network"
    except errors.EntryNotFoundError:
        trouble = f"{repository} has no file {path} at {revision or 'main'}"
    except Exception as error:  # errors of its HTTP library and of the operating system
        first = next(iter(str(error).splitlines()), "").rstrip(". ") or type(error).__name__
        trouble = f"can't be had from the Hugging Face Hub ({first})"
    raise ArtifactError(f"{reference}: {trouble}.")
