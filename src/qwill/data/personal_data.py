"""Personal data in running text: where it is and of what kind. `redact` does something about it.

A kind is found by its form where the form proves itself (check digits, an `@` with a domain, a public address) and
needs a word beside it where it does not: an account number is any number, until "account" and "bank" stand by. What
cannot be anybody's is left alone: private and documentation addresses, the domains of RFC 2606, numbers of zeros.

Most documents have no `@` and no seven digits in a row: each kind first looks for the one sign that it cannot do
without, over the whole text at the speed of a substring search, and looks closely only there.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from qwill.data.number_forms import IBAN_LENGTHS, is_card, is_iban, is_old_resident_id, is_public_ip, is_resident_id
from qwill.data.phones import DATE, find_phones

# In order of strength: of two findings that overlap, the one whose kind stands first holds.
KINDS = ("secret", "email", "resident_id", "iban", "card", "ip", "passport", "bank", "phone")


@dataclass(frozen=True, order=True)
class Span:
    """`text[start:end]` is of `kind`."""

    start: int
    end: int
    kind: str


_SPACES = "\u00a0\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000"
_DASHES = "\u2010\u2011\u2012\u2013\u2014\u2015\u2212\u2500\u30fc\ufe63\uff0d\u2e3a\u00ad"


@cache
def _narrowing() -> NDArray[np.uint32]:
    """The ASCII character that one stands for (full width, digits of all scripts, dashes, spaces), or itself."""
    table = np.arange(sys.maxunicode + 1, dtype=np.uint32)
    table[0xFF01:0xFF5F] -= 0xFEE0
    for code in range(0x80, sys.maxunicode + 1):
        if unicodedata.category(chr(code)) == "Nd":
            table[code] = ord("0") + unicodedata.decimal(chr(code))
    table[list(map(ord, _SPACES))] = ord(" ")
    table[list(map(ord, _DASHES))] = ord("-")
    table[ord("﹫")] = ord("@")
    return table


def narrow(text: str) -> str:
    """`text` with what stands for an ASCII character as that; one for one, so that offsets stay."""
    if text.isascii():
        return text
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    return _narrowing()[codes].tobytes().decode("utf-32-le", "surrogatepass")


# ---------------------------------------------------------------- e-mail

_ACCENTED = "".join(map(chr, (*range(0xC0, 0x250), *range(0x370, 0x530))))
_LOCAL = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._%+-'&" + _ACCENTED
_SIGN = r"[a-z0-9\u00c0-\u024f\u0370-\u052f]"
_LABEL = rf"{_SIGN}(?:[a-z0-9\u00c0-\u024f\u0370-\u052f\-]{{0,61}}{_SIGN})?"
_DOMAIN = re.compile(
    rf"(?:(?:{_LABEL}\.)+(?P<top>[a-z]{{2,18}}|xn--[a-z0-9\-]{{2,30}}|[\u0400-\u052f]{{2,10}})"
    rf"|(?:[\u3400-\u9fff]{{1,20}}|{_LABEL})\.(?:中国|公司|网络|中國|公益|政务))(?![a-z0-9\u00c0-\u024f\-]|\.[a-z0-9])",
    re.I,
)
_RESERVED = re.compile(r"(?:(?:^|\.)example\.(?:com|net|org)|\.(?:example|test|invalid|localhost|local))\Z", re.I)
# `icon@2x.png` and `lib@1.2.js` are files, `name@v1.tar` a version.
_FILE = re.compile(
    "png|jpe?g|gif|svg|webp|bmp|ico|css|jsx?|tsx?|mjs|cjs|json|xml|html?|php|aspx?|jsp|txt|pdf|docx?|xlsx?|pptx?|csv|exe|"
    "dll|jar|tar|tgz|mp|mkv|avi|scss|less|map|lock|ya?ml|toml|ini|cfg|conf|log|bak|tmp"
)
_PROVIDERS = (
    "gmail.com|googlemail.com|qq.com|163.com|126.com|139.com|189.cn|foxmail.com|sina.com|sina.cn|sohu.com|aliyun.com|"
    "yeah.net|tom.com|outlook.com|hotmail.com|live.com|msn.com|yahoo.com|yahoo.cn|yahoo.co.uk|icloud.com|me.com|mac.com|"
    "aol.com|gmx.de|gmx.net|web.de|mail.ru|yandex.ru|protonmail.com|proton.me|qq.cn|vip.qq.com|vip.163.com"
)
_APART = re.compile(rf" @ ?(?:{_PROVIDERS})(?![a-z0-9\-])|@ (?:{_PROVIDERS})(?![a-z0-9\-])".replace(".", r"\."), re.I)
_SPELT_AT = r" ?(?:\[ ?(?:at|@) ?\]|\( ?(?:at|@) ?\)|[{] ?(?:at|@) ?[}]|<at>|_at_) ?"
_SPELT_DOT = r"(?:\.| ?(?:\[ ?(?:dot|\.) ?\]|\( ?(?:dot|\.) ?\)|[{] ?(?:dot|\.) ?[}]|<dot>|_dot_) ?)"
_PART, _LAST = r"[a-z0-9\-]{1,63}", r"[a-z0-9\-]{2,63}"
_TOP = "com|net|org|edu|gov|io|info|cn|uk|de|fr|jp|co"
_SPELT = re.compile(
    rf"[a-z0-9._+'\-]{{1,64}}(?:{_SPELT_AT}{_PART}(?:{_SPELT_DOT}{_LAST}){{1,4}}"
    rf"| at (?!the |a |our )[a-z0-9\-]{{2,63}}(?: dot {_LAST}){{0,2}} dot (?:{_TOP}))(?![a-z0-9\-])",
    re.I,
)
_SPELT_SIGN = re.compile(r"[\[({<_] ?(?:at|@) ?[\])}>_]| dot ", re.I)


def _emails(text: str) -> Iterator[Span]:
    at = text.find("@")
    while at >= 0:
        head = text[max(0, at - 64) : at]
        local = head[len(head.rstrip(_LOCAL)) :].lstrip(".'&%+-")
        found = _DOMAIN.match(text, at + 1)
        start = at - len(local)
        # After two slashes it is who logs in, not who gets mail.
        if local and found and not text.endswith("//", 0, start) and _is_mailbox(local, found, text):
            yield Span(start, found.end(), "email")
        elif found := _APART.match(text, at - (text[at - 1 : at] == " ")):
            head = text[max(0, found.start() - 64) : found.start()]
            local = head[len(head.rstrip(_LOCAL)) :].lstrip(".'&%+-")
            if local:
                yield Span(found.start() - len(local), found.end(), "email")
        at = text.find("@", at + 1)
    looked = 0
    for sign in _SPELT_SIGN.finditer(text):
        if sign.end() > looked:
            start, looked = max(looked, sign.start() - 140), sign.end() + 140
            for spelt in _SPELT.finditer(text, start, looked):
                yield Span(spelt.start(), spelt.end(), "email")


def _is_mailbox(local: str, domain: re.Match[str], text: str) -> bool:
    name, top = domain.group().lower(), (domain["top"] or "").lower()
    if _RESERVED.search(name) or _FILE.fullmatch(top):
        return False
    # git@host:path names a repository.
    return not (local == "git" and text[domain.end() : domain.end() + 1] in (":", "/"))


# ---------------------------------------------------------------- addresses

_IPV4 = re.compile(r"(?<![0-9.])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?![0-9]|\.[0-9])")
_IPV4_SIGN = re.compile(r"[0-9]\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]")
_IPV6_SIGN = re.compile(r":[0-9A-Fa-f]{0,4}:")
_IPV6_WORD = re.compile(r"[0-9A-Fa-f:]+(?:(?<=:)(?:[0-9]{1,3}\.){3}[0-9]{1,3})?")
_VERSION = re.compile(
    r"(?:(?<![A-Za-z])(?:v(?:er(?:sions?)?)?\.?|versions?|release|rev(?:ision)?|firmware|build|driver|update|section|chapter|"
    r"figure|table|appendix|clause|step|oid)|§|版本|版|固件|章节|第|[A-Za-z][/_\-])[ :号]*\Z",
    re.I,
)
_IP_NEAR = re.compile(
    r"(?<![A-Za-z])(?:ips?|ipv4|address|host|server|ping|dns|gateway|route|subnet|client|from)(?![A-Za-z])|//|地址|服务器|主机|网关",
    re.I,
)


def _addresses(text: str) -> Iterator[Span]:
    if _IPV4_SIGN.search(text):
        for found in _IPV4.finditer(text):
            if _is_address(text, found):
                yield Span(found.start(), found.end(), "ip")
    position = 0
    while (sign := _IPV6_SIGN.search(text, position)) is not None:
        start = sign.start()
        while start and text[start - 1] in "0123456789abcdefABCDEF:" and sign.start() - start < 40:
            start -= 1
        # One colon before it is that of a label.
        start += text[start] == ":" != text[start + 1 : start + 2]
        word = _IPV6_WORD.match(text, start)
        assert word is not None
        position = max(word.end(), sign.end())
        end = word.end() - (word.group().endswith(":") and not word.group().endswith("::"))
        around = text[start - 1 : start] if start else "", text[end : end + 1]
        if not any(map(_is_ascii_word, around)) and is_public_ip(text[start:end]):
            yield Span(start, end, "ip")


def _is_address(text: str, found: re.Match[str]) -> bool:
    if not is_public_ip(found.group()):
        return False
    before = text[max(0, found.start() - 24) : found.start()]
    if _is_ascii_word(before[-1:]) or _is_ascii_word(text[found.end() : found.end() + 1]):
        return False
    if _VERSION.search(before) and not before.endswith("//"):
        return False
    # 1.2.3.4 is a heading or a version more often than a machine.
    return max(map(int, found.group().split("."))) >= 32 or _IP_NEAR.search(before) is not None


# ---------------------------------------------------------------- numbers

_RUN = re.compile(r"[0-9](?:[ ().\-]{0,3}[0-9]){5,}")
_RESIDENT = re.compile(
    r"(?<![0-9A-Za-z])[1-9][0-9]{5}[ \-]?(?:18|19|20)[0-9]{2}[ \-]?[01][0-9][ \-]?[0-3][0-9][ \-]?[0-9]{3} ?[0-9Xx]"
    r"(?![0-9A-Za-z])"
)
_OLD_RESIDENT = re.compile(r"(?<![0-9A-Za-z])[1-9][0-9]{14}(?![0-9A-Za-z])")
_CARD = re.compile(
    r"(?<![0-9A-Za-z_])(?<![0-9][.\-])(?:[0-9]{4}([ \-]{1,2})[0-9]{4}\1[0-9]{4}\1[0-9]{2,4}(?:\1[0-9]{1,3})?|"
    r"[0-9]{4}([ \-])[0-9]{6}\2[0-9]{4,5}|[0-9]{6}([ \-])[0-9]{10,13}|[0-9]{14,19})(?![0-9A-Za-z_])(?!-[0-9]|\.[0-9])"
)
_IBAN_SIGN = re.compile(r"[A-Z]{2}[0-9]{2}(?:[ \-]?[A-Z0-9]){11,30}(?![A-Za-z0-9])")
_NUMBER_LABEL = re.compile(
    r"(?:(?<![A-Za-z])(?:orders?|invoices?|ref(?:erence)?|serial|parts?|items?|sku|isbn|ids?|uid|tickets?|tracking|imei|barcodes?|"
    r"ean|upc|lot|batch|codes?|build|hash|seed|shipment|parcel|timestamps?|waybill|transaction|confirmation|booking|value|total|sum)"
    r"|数值|总数|订单|訂單|单号|單號|编号|編號|序列号|序號|货号|条码|條碼|批号|流水号?|运单|快递|时间戳|交易|哈希|构建|物流)"
    r"(?:[\s.:#：=为為是号號码碼]|(?<![A-Za-z])(?:no|nr|number|id|is|was)\b)*\Z",
    re.I,
)
_IDENTITY = re.compile(r"身份证|身份證|身分證|证件号|ID card|identity|居民", re.I)
_PASSPORT_SIGN = ("assport", "ASSPORT", "护照", "護照", "通行证", "通行證", "ravel document")
_PASSPORT = re.compile(
    r"(?:passport|travel document|护照|護照|通行[证證])(?:"
    # Digits alone right after the word, with a letter near it.
    r"(?:\W|number|no|nr|num|is|was|号码?|號碼?|编号|編號|为|為|是){0,8}?(?<![A-Za-z0-9$€£¥])([0-9]{8,9})(?![A-Za-z0-9])"
    r"|(?:[^\n.。;；0-9]|(?<![a-z])no\.){0,30}?(?<![A-Za-z0-9])"
    r"([A-Z]{1,2}[0-9]{6,9}[A-Z]?|[CFGHJK][0-9CFGHJKLMNPRTVWXYZ]{8}[0-9]?|[0-9]{2}[A-Z]{2}[0-9]{5})(?![A-Za-z0-9]))",
    re.I,
)
_ACCOUNT = re.compile(
    r"(?:account|acct|a/c|iban|routing (?:number|no|transit|code|#)|aba|sort code|bsb|账号|賬號|帐号|帳號|账户|賬戶|"
    r"帐户|帳戶|卡号|卡號|银行卡|对公|汇款|汇入|转账至|打款至|打到|转到)[^\n。;；0-9]{0,24}?(?<![A-Za-z0-9.])"
    r"((?:[0-9][ \-]?){5,24}[0-9])(?![A-Za-z0-9]|\.[0-9])",
    re.I,
)
_BANK = re.compile(
    r"(?<![A-Za-z])(?:bank|banks|banking|routing number|sort code|bsb|aba|swift|bic|wire|deposit|transfer|checking|"
    r"savings|beneficiary|payee|remit|direct debit|HSBC|Barclays|Chase|Citi|Wells Fargo)(?![A-Za-z])|银行|銀行|"
    r"开户|開戶|汇款|匯款|转账|轉賬|支行|储蓄|存款|打款|对公|信用社|收款|农信|工行|农行|建行|中行|招行|交行",
    re.I,
)
_SIGNS = re.compile(r"[^0-9A-Za-z]")


def _is_ascii_word(character: str) -> bool:
    return character.isascii() and (character.isalnum() or character == "_")


def _bare(text: str) -> str:
    return _SIGNS.sub("", text)


def _proven(text: str, start: int, end: int) -> Iterator[Span]:
    """Resident IDs and cards in a stretch of digits."""
    for found in _RESIDENT.finditer(text, start, min(len(text), end + 3)):
        if is_resident_id(_bare(found.group())):
            yield Span(found.start(), found.end(), "resident_id")
    for found in _OLD_RESIDENT.finditer(text, start, min(len(text), end + 1)):
        if is_old_resident_id(found.group()) and _IDENTITY.search(text, max(0, found.start() - 24), found.start()):
            yield Span(found.start(), found.end(), "resident_id")
    for found in _CARD.finditer(text, start, min(len(text), end + 2)):
        before = text[max(0, found.start() - 48) : found.start()]
        if is_card(_bare(found.group())) and not _NUMBER_LABEL.search(before) and "://" not in before.split(" ")[-1]:
            yield Span(found.start(), found.end(), "card")


def _ibans(text: str) -> Iterator[Span]:
    for found in _IBAN_SIGN.finditer(text):
        whole = found.group()
        if _is_ascii_word(text[max(0, found.start() - 1) : found.start()]):
            continue
        # A word in capitals may follow: the country says how long it is.
        length, end = IBAN_LENGTHS.get(whole[:2], 0), 0
        for character in whole:
            if length == 0:
                break
            end += 1
            length -= character.isalnum()
        if end and length == 0 and is_iban(_bare(whole[:end])) and not whole[end : end + 1].isalnum():
            yield Span(found.start(), found.start() + end, "iban")


def _is_placeholder(digits: str) -> bool:
    return digits.lstrip("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz").startswith("0000")


def _passports(text: str) -> Iterator[Span]:
    if any(sign in text for sign in _PASSPORT_SIGN):
        for found in _PASSPORT.finditer(text):
            number = found[1] or found[2]
            if sum(map(str.isdecimal, number)) >= 4 and not _is_placeholder(number) and not DATE.fullmatch(number):
                yield Span(found.end() - len(number), found.end(), "passport")


def _accounts(text: str, start: int, end: int) -> Iterator[Span]:
    """Accounts in a stretch of digits, by the words before it."""
    for found in _ACCOUNT.finditer(text, max(0, start - 40), min(len(text), end + 2)):
        near = text[max(0, found.start() - 60) : found.end() + 40]
        if _BANK.search(near) and not _is_placeholder(_bare(found[1])) and not DATE.fullmatch(found[1]):
            yield Span(found.start(1), found.end(1), "bank")


# ---------------------------------------------------------------- secrets

_SECRET_SIGNS = (
    "://",
    "sk-",
    "AKIA",
    "ASIA",
    "ghp_",
    "gho_",
    "github_pat_",
    "xox",
    "AIza",
    "eyJ",
    "PRIVATE KEY",
    "hf_",
)
_SECRET = re.compile(
    r"(?<=://)[^\s/@:\"'<>]{1,64}:[^\s/@\"'<>]{1,128}(?=@[A-Za-z0-9\[])"
    r"|(?<![A-Za-z0-9_\-])(?:sk-(?:proj-|ant-)?[A-Za-z0-9_\-]{20,}|(?:AKIA|ASIA)[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{36,}|"
    r"github_pat_[A-Za-z0-9_]{60,}|xox[abprs]-[A-Za-z0-9\-]{20,}|AIza[0-9A-Za-z_\-]{35}|hf_[A-Za-z0-9]{34,}|"
    r"eyJ[A-Za-z0-9_\-]{10,}\.eyJ[A-Za-z0-9_\-]{10,}\.[A-Za-z0-9_\-]{10,})(?![A-Za-z0-9])"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----[A-Za-z0-9+/=\s\-:,.]{0,8192}?-----END [A-Z ]*PRIVATE KEY-----"
)


def _secrets(text: str) -> Iterator[Span]:
    if any(sign in text for sign in _SECRET_SIGNS):
        for found in _SECRET.finditer(text):
            yield Span(found.start(), found.end(), "secret")


def find_personal_data(text: str, kinds: Sequence[str], regions: Sequence[str]) -> list[Span]:
    """All that is found of `kinds`, in order, none overlapping another. `regions`: see `find_phones`."""
    narrowed = narrow(text)
    found = [span for find in (_secrets, _emails, _addresses, _passports) for span in find(narrowed)]
    runs = [run.span() for run in _RUN.finditer(narrowed)]
    found += _ibans(narrowed) if runs else ()
    for start, end in runs:
        found += _proven(narrowed, start, end)
        found += _accounts(narrowed, start, end)
        found += (Span(a, b, "phone") for a, b in find_phones(narrowed, start, end, regions))
    # All kinds are sought whatever is asked for, so that what counts as one kind does not depend on the others.
    return [span for span in _apart(found) if span.kind in kinds]


def _apart(found: list[Span]) -> list[Span]:
    """The strongest of those that overlap, in order."""
    strength = {kind: place for place, kind in enumerate(KINDS)}
    taken = list[Span]()
    for span in sorted(found, key=lambda s: (strength[s.kind], s.start - s.end, s.start)):
        place = bisect_left(taken, span)
        if (place == 0 or taken[place - 1].end <= span.start) and (
            place == len(taken) or span.end <= taken[place].start
        ):
            taken.insert(place, span)
    return taken
