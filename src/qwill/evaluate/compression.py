"""Bits per byte of a general-purpose compressor: the first baseline that a language model has to beat."""

import lzma

from qwill.base.errors import DataError

DICTIONARY_BYTES = 64 * 1024 * 1024


def xz_bits_per_byte(train: bytes, heldout: bytes) -> float:
    """Bits that xz needs for each byte of `heldout` when it has already seen `train`.

    (|xz(train + heldout)| - |xz(train)|)·8 / |heldout|, preset 9 extreme, a 64 MiB dictionary, the same .xz
    container for both, so its headers cancel. Of a longer `train` only the last 64 MiB can be referred to;
    that is the compressor's own limit. Raises DataError when `heldout` is empty.
    """
    if not heldout:
        raise DataError("xz got no held-out bytes, expected at least one; give a larger held-out split.")
    return 8.0 * (_compressed_size(train + heldout) - _compressed_size(train)) / len(heldout)


def _compressed_size(data: bytes) -> int:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": DICTIONARY_BYTES}]
    return len(lzma.compress(data, format=lzma.FORMAT_XZ, filters=filters))
