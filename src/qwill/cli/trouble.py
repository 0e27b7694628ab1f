"""Errors that the machine is to blame for, in one sentence."""

from __future__ import annotations

import errno


def machine_trouble(error: BaseException) -> str | None:
    """One sentence for an error that the machine is to blame for, however deep the library that met it; else None."""
    chain: BaseException | None = error
    while chain is not None:
        number = chain.errno if isinstance(chain, OSError) else None
        where = f" ({chain.filename})" if isinstance(chain, OSError) and chain.filename else ""
        # Libraries written in Rust and C++ put the system's words into errors of their own.
        if number in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(chain):
            return f"the disk is full{where}; make room and run the same command again to go on."
        if number in (errno.EACCES, errno.EPERM, errno.EROFS):
            return f"no permission{where}; choose another folder or change its permissions."
        chain = chain.__cause__ or chain.__context__
    return None
