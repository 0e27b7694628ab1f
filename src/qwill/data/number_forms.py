"""Numbers that prove themselves: check digits and forms of cards, IBANs, Chinese resident IDs and IP addresses.

Each function takes the number without separators and says whether it can be one that was issued.
"""

from __future__ import annotations

import calendar
import ipaddress
import re

# Issuer prefixes and lengths (ISO/IEC 7812; the issuers' published ranges): (first, last, lengths), compared on as
# many digits as the bounds have.
_ISSUERS: tuple[tuple[str, str, tuple[int, ...]], ...] = (
    ("4", "4", (16,)),  # Visa; its 13 digits ended in the 1990s and look like barcodes, its 19 are hardly issued
    ("51", "55", (16,)),  # Mastercard
    ("2221", "2720", (16,)),
    ("34", "34", (15,)),  # American Express
    ("37", "37", (15,)),
    ("300", "305", (14,)),  # Diners Club
    ("36", "36", (14,)),
    ("38", "39", (14,)),
    ("3528", "3589", (16,)),  # JCB
    ("6011", "6011", (16,)),  # Discover
    ("644", "659", (16,)),
    ("62", "62", (16, 17, 18, 19)),  # UnionPay
    ("81", "81", (16,)),
    ("2200", "2204", (16,)),  # Mir
    ("5018", "5018", (16,)),  # Maestro
    ("5020", "5020", (16,)),
    ("5038", "5038", (16,)),
    ("6304", "6304", (16,)),
    ("6759", "6763", (16,)),
)

# Provinces of GB/T 2260, the first two digits of a resident ID.
PROVINCES = frozenset(
    [11, 12, 13, 14, 15, *range(21, 24), *range(31, 38), *range(41, 47), *range(50, 55), *range(61, 66), 71, 81, 82, 83]
)

# Length of an IBAN by country (SWIFT's IBAN registry).
IBAN_LENGTHS = {
    "AD": 24, "AE": 23, "AL": 28, "AT": 20, "AZ": 28, "BA": 20, "BE": 16, "BG": 22, "BH": 22, "BR": 29, "BY": 28,
    "CH": 21, "CR": 22, "CY": 28, "CZ": 24, "DE": 22, "DK": 18, "DO": 28, "EE": 20, "EG": 29, "ES": 24, "FI": 18,
    "FO": 18, "FR": 27, "GB": 22, "GE": 22, "GI": 23, "GL": 18, "GR": 27, "GT": 28, "HR": 21, "HU": 28, "IE": 22,
    "IL": 23, "IQ": 23, "IS": 26, "IT": 27, "JO": 30, "KW": 30, "KZ": 20, "LB": 28, "LC": 32, "LI": 21, "LT": 20,
    "LU": 20, "LV": 21, "MC": 27, "MD": 24, "ME": 22, "MK": 19, "MR": 27, "MT": 31, "MU": 30, "NL": 18, "NO": 15,
    "PK": 24, "PL": 28, "PS": 29, "PT": 25, "QA": 29, "RO": 24, "RS": 22, "SA": 24, "SC": 31, "SE": 24, "SI": 19,
    "SK": 24, "SM": 27, "ST": 25, "SV": 28, "TL": 23, "TN": 24, "TR": 26, "UA": 29, "VA": 22, "VG": 24, "XK": 20,
}  # fmt: skip

# Countries whose accounts begin with a bank's four letters, and those whose accounts are digits alone.
_LETTERS_FIRST = re.compile("AZ|BG|BH|DO|GB|GI|GT|IE|IQ|JO|KW|LC|LV|MT|MU|NL|PK|PS|QA|RO|SC|SV|VG")
_DIGITS_ALONE = re.compile("AE|AT|BA|BE|CR|CZ|DE|DK|EE|ES|FI|FO|GL|HR|HU|IL|LT|ME|NO|PL|PT|RS|SE|SI|SK|ST|TL|TN|VA|XK")

_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_CHECK = "10X98765432"


def luhn(digits: str) -> bool:
    """Whether the last digit is the check digit of ISO/IEC 7812-1."""
    total = 0
    for place, digit in enumerate(map(int, reversed(digits))):
        doubled = digit * 2 if place % 2 else digit
        total += doubled - 9 if doubled > 9 else doubled
    return total % 10 == 0


def is_card(digits: str) -> bool:
    """A payment card: an issuer's prefix with a length that it issues, and Luhn's digit."""
    return any(
        first <= digits[: len(first)] <= last and len(digits) in lengths for first, last, lengths in _ISSUERS
    ) and luhn(digits)


def is_iban(text: str) -> bool:
    """Capitals and digits without spaces: the country's length and signs, and ISO 7064 MOD 97-10."""
    if IBAN_LENGTHS.get(text[:2]) != len(text) or not text[2:4].isdecimal():
        return False
    if _LETTERS_FIRST.match(text) and not text[4:8].isalpha():
        return False
    if _DIGITS_ALONE.match(text) and not text[4:].isdecimal():
        return False
    return int("".join(str(int(c, 36)) for c in text[4:] + text[:4])) % 97 == 1


def _is_date(year: int, month: int, day: int) -> bool:
    return 1 <= month <= 12 and 1 <= day <= calendar.monthrange(year, month)[1]


def is_resident_id(text: str) -> bool:
    """Eighteen places of GB 11643-1999: province, date of birth from 1880 on, ISO 7064 MOD 11-2."""
    if len(text) != 18 or not text[:17].isdecimal() or int(text[:2]) not in PROVINCES:
        return False
    year, month, day = int(text[6:10]), int(text[10:12]), int(text[12:14])
    if not (1880 <= year <= 2099 and _is_date(year, month, day)):
        return False
    return _CHECK[sum(int(c) * w for c, w in zip(text[:17], _WEIGHTS, strict=True)) % 11] == text[17].upper()


def is_old_resident_id(digits: str) -> bool:
    """The fifteen digits issued until 1999: no century and no check digit, so weak without a word beside it."""
    if len(digits) != 15 or int(digits[:2]) not in PROVINCES:
        return False
    return _is_date(1900 + int(digits[6:8]), int(digits[8:10]), int(digits[10:12]))


def is_public_ip(text: str) -> bool:
    """An address that can be someone's: not private, reserved, multicast or for documentation (IANA's registries).

    IPv6: global unicast, 2000::/3, alone.
    """
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    if address.version == 6 and int(address) >> 125 != 1:
        return False
    return address.is_global and not address.is_multicast
