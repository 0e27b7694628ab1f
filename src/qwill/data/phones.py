"""Telephone numbers in running text.

A number counts by itself when it has a form that hardly anything else has: a country code after a plus, a Chinese
mobile or area-code number, North America's 3-3-4, or a national number with its trunk zero in exactly the groups in
which its country writes it. Any other valid number needs a word such as "call" or 电话 before it, on its line. A word
that names another kind of number directly before it ("order no.", 订单号) speaks against all of these but the plus.
Which numbers exist is for `phonenumbers` to say (Google's libphonenumber), which sees candidates alone: it is slow.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

# Where a number without a country code may be from, by language.
REGIONS: dict[str, tuple[str, ...]] = {
    "en": ("US", "GB", "AU", "IN", "IE", "NZ", "ZA", "SG", "CA"),
    "zh": ("CN", "TW", "HK", "MO", "SG", "GB"),
    "ar": ("SA", "EG", "AE", "IQ", "MA", "DZ"),
    "de": ("DE", "AT", "CH"),
    "es": ("ES", "MX", "AR", "CO"),
    "fa": ("IR",),
    "fr": ("FR", "BE", "CH", "CA"),
    "he": ("IL",),
    "hi": ("IN",),
    "it": ("IT",),
    "ja": ("JP",),
    "ko": ("KR",),
    "pt": ("PT", "BR"),
    "ru": ("RU", "KZ"),
    "th": ("TH",),
    "tr": ("TR",),
    "vi": ("VN",),
}

_CODE = r"(?:(?:00 ?|\()?86\)?[ \-]{0,2})?"
_PLUS = re.compile(r"\+ ?\(?[0-9](?:[ ().\-/]{0,3}[0-9]){6,16}")
_MOBILE = re.compile(
    rf"{_CODE}\(?(1[3-9][0-9]\)?[ .\-]?[0-9]{{4}}[ .\-]?[0-9]{{4}}|1[3-9][0-9]{{2}}-[0-9]{{3}}-[0-9]{{4}})"
)
_LANDLINE = re.compile(
    rf"{_CODE}\(?(0?(?:10|2[0-9]|[3-9][0-9]{{2}})(?:\) ?|[ \-]{{1,2}}|(?=[0-9]))[0-9]{{3,4}}[ \-]?[0-9]{{4}})"
    r"(?:-[0-9]{2,6})?"
)
_SERVICE = re.compile(r"[48]00(?:-[0-9]{3}-[0-9]{4}|-[0-9]{4}-[0-9]{3}|-[0-9]{7}|[0-9]{7})")
_AMERICAN = re.compile(
    r"(?:1[ .\-]?)?(?:\([2-9][0-9]{2}\)[ .\-]?[2-9][0-9]{2}[ .\-][0-9]{4}|"
    r"[2-9][0-9]{2}([.\-])[2-9][0-9]{2}\1[0-9]{4}|[2-9][0-9]{2} [2-9][0-9]{2}-[0-9]{4})"
)
_NATIONAL = re.compile(r"\(?0[0-9]{1,5}\)?(?:[ \-]{1,2}[0-9]{2,8}){1,5}")
_ABROAD = re.compile(r"00 ?[1-9](?:[ ().\-]{0,3}[0-9]){6,16}")
_ANY = re.compile(r"\(?[0-9](?:[ ().\-]{0,3}[0-9]){6,14}")
_LOCAL = re.compile(r"[2-9][0-9]{2,3}[ \-]?[0-9]{4}")
_EXTENSION = re.compile(r"(?:[ ,;]{0,2}(?:ext(?:ension|n)?\.?|x|转|轉|分机号?|分機|#)[ :.]?[0-9]{1,6}(?![0-9]))?", re.I)

_GROUP = re.compile(r"[0-9]+")
DATE = re.compile(
    r"(?:19|20)[0-9]{2}(?P<a>[\-./ ]?)(?:0?[1-9]|1[0-2])(?P=a)(?:0?[1-9]|[12][0-9]|3[01])(?![0-9])"
    r"|(?:0?[1-9]|[12][0-9]|3[01])(?P<b>[\-./])(?:0?[1-9]|[12][0-9]|3[01])(?P=b)(?:19|20)[0-9]{2}(?![0-9])"
    r"|(?:1[0-9]|20)[0-9]{2} ?-{1,3} ?(?:1[0-9]|20)[0-9]{2}(?![0-9])"
)
_CONTACT = (
    r"(?:(?<![A-Za-z])(?:tele?|phones?|telephones?|ph|mobiles?|mob|cell(?:phone)?|fax|call(?:s|ed|ing)?|dial(?:led)?|"
    r"text(?:ed)?|sms|whats ?app|hotline|landline|ring|contact|reach|voicemail|wechat|signal)(?![A-Za-z])|"
    r"电话|電話|手机|手機|联系|聯繫|聯絡|联络|致电|致電|来电|拨打|撥打|热线|熱線|传真|傳真|短信|微信|号码|號碼|咨询|座机|拨|打给|"
    r"找我)"
)
_CONTACT_NEAR = re.compile(_CONTACT, re.I)
_CONTACT_LABEL = re.compile(
    _CONTACT + r"(?:\W?(?:numbers?|no|nr|is|at|on|me|us|him|her|them|line|号码?|號碼?|方式|是|为|為|\W)){0,6}\Z", re.I
)
_CONTACT_LETTERS = re.compile(r"(?:^|[^a-z])(?:tel|phone|mobile|mob|cell|fax|call|wx|vx|v|whatsapp|m|t|p|f)\Z", re.I)
# Words that name another kind of number, directly before it.
_OTHER_LABEL = re.compile(
    r"(?:(?<![A-Za-z])(?:p/n|orders?|invoices?|ref(?:erence)?|serial|parts?|models?|items?|sku|isbn|issn|doi|ids?|uid|cases?|tickets?|"
    r"tracking|accounts?|acct|version|ver|imei|barcodes?|ean|upc|gtin|patents?|lot|batch|codes?|build|revision|commit|"
    r"bug|issue|pmid|arxiv|oclc|cas|docket|shipment|parcel|confirmation|booking|flight|licen[cs]e|permit|vin|"
    r"timestamps?|epoch|time|hash|seed|checksum|population|total|sum|value|amount|qq|zip|postcode|catalog(?:ue)?|"
    r"products?|equation|coordinates?|grid)"
    r"|订单|訂單|单号|單號|编号|編號|型号|型號|序列号|序號|货号|貨號|条码|條碼|条形码|专利|專利|批号|批號|文号|许可证|登记|"
    r"流水|邮编|郵編|学号|工号|票号|快递|快遞|运单|案号|档案|注册号|證號|证号|账号|帐号|账户|时间戳|時間戳|版本|书号|書號|代码|"
    r"代碼|零件|产品|產品|商品|合同|发票|凭证|人口|总数|共计|金额|坐标|构建|哈希|ID|QQ|No)"
    r"(?:[\s.:#：=为為是号號码碼()（）№]|(?<![A-Za-z])(?:no|nr|number|num|id|is|was|code)\b)*\Z",
    re.I,
)
_DECIMAL = re.compile(r"[0-9]+\.[0-9]+")
_SUM = re.compile(r"[0-9)] ?[=×*^÷] ?\Z")
_CLOCK = re.compile(r"[0-9]:\Z")
_JOINT = re.compile(r"[ /、,，;；&]{1,3}(?:or|and|或|和)?[ ]?\(?")


@lru_cache(maxsize=1 << 14)
def _parsed(text: str, region: str | None) -> Any:
    """The number as phonenumbers reads it, or None where there is no such number."""
    import phonenumbers

    try:
        number = phonenumbers.parse(text, region)
    except phonenumbers.NumberParseException:
        return None
    return number if phonenumbers.is_valid_number(number) else None


def _grouped_as_written(text: str, number: Any) -> bool:
    import phonenumbers

    formatted = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.NATIONAL)
    written = _GROUP.findall(text)
    return len(written) > 1 and written == _GROUP.findall(formatted)


def _is_chinese(found: re.Match[str]) -> bool:
    """With its country code, or with the zero of an area code or the one of a mobile number."""
    core, coded = found[1], found.start(1) > found.start() + found.group().startswith("(")
    return (coded or core[0] == "0" or found.re is _MOBILE) and _parsed(
        "+86" + "".join(_GROUP.findall(core)), None
    ) is not None


def _readings(found: re.Match[str] | None) -> Iterator[str]:
    """The match, then without its last group of digits, and so on: two numbers may stand side by side."""
    text = found.group() if found else ""
    for group in reversed(list(_GROUP.finditer(text))):
        if sum(map(str.isdecimal, text[: group.end()])) < 7:
            return
        yield text[: group.end()]


def find_phones(text: str, start: int, end: int, regions: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Spans of the telephone numbers in `text[start:end]`, a stretch of digits and what may part them.

    `text` has half-width digits and signs. `regions`: where numbers without a country code may be from.
    """
    last = -1
    group = _GROUP.search(text, start, end)
    while group is not None:
        at = group.start()
        joined = last >= 0 and _JOINT.fullmatch(text, last, at) is not None
        found = _with_country_code(text, at) or _without_country_code(text, at, joined, regions)
        if found is not None:
            yield found
            last = found[1]
        # Not from inside this run of digits.
        group = _GROUP.search(text, max(group.end(), last), end)


def _with_country_code(text: str, at: int) -> tuple[int, int] | None:
    plus = text.rfind("+", max(0, at - 3), at)
    if plus < 0 or text[plus + 1 : at].strip(" (") or _ascii_word(text[plus - 1 : plus] if plus else ""):
        return None
    for part in _readings(_PLUS.match(text, plus)):
        end = _end(text, plus + len(part))
        if end is not None and (_parsed(part, None) or _has_its_code_apart(part)):
            return plus, end
    return None


def _has_its_code_apart(text: str) -> bool:
    """`+44 7700 650392`: no number in use, but the code stands for itself, and the length is right."""
    import phonenumbers

    groups = _GROUP.findall(text)
    try:
        number = phonenumbers.parse(text, None)
    except phonenumbers.NumberParseException:
        return False
    return len(groups) > 2 and groups[0] == str(number.country_code) and phonenumbers.is_possible_number(number)


def _without_country_code(text: str, at: int, joined: bool, regions: Sequence[str]) -> tuple[int, int] | None:
    start = at - 1 if text[max(0, at - 1) : at] == "(" and ")" in text[at : at + 7] else at
    before = text[max(0, text.rfind("\n", 0, start) + 1, start - 64) : start]
    if _part_of_another(before, joined):
        return None
    labelled = joined or _CONTACT_LABEL.search(before) is not None
    if not labelled and _OTHER_LABEL.search(before):
        return None
    near = labelled or _CONTACT_NEAR.search(before[-40:]) is not None
    date = DATE.match(text, at) is not None
    for part in _candidates(text, start, at, labelled, near, date, regions):
        end = _end(text, start + len(part))
        if end is not None:
            return start, end
    return None


def _candidates(
    text: str, start: int, at: int, labelled: bool, near: bool, date: bool, regions: Sequence[str]
) -> Iterator[str]:
    """What may be a number from `start` on, strongest form first."""
    for pattern in (_MOBILE, _LANDLINE):
        found = pattern.match(text, start)
        if found and _is_chinese(found):
            yield found.group()
    found = _AMERICAN.match(text, start)
    if found and _parsed(found.group(), "US"):
        yield found.group()
    found = _SERVICE.match(text, at)
    if found and (near or "-" in found.group()):
        yield found.group()
    for part in _readings(_ABROAD.match(text, start)):
        if _parsed("+" + part[2:], None) and (near or len(_GROUP.findall(part)) > 2):
            yield part
    for part in _readings(_NATIONAL.match(text, start)):
        for region in regions:
            number = _parsed(part, region)
            if number and (near or _grouped_as_written(part, number)):
                yield part
    if near and not date:
        for part in _readings(_ANY.match(text, start)):
            if not _DECIMAL.fullmatch(part) and any(_parsed(part, region) for region in regions):
                yield part
        found = _LOCAL.match(text, at) if labelled else None
        if found:
            yield found.group()


def _end(text: str, end: int) -> int | None:
    """Where a number that may end at `end` does end, with its extension; None where it goes on as something else."""
    tail = _EXTENSION.match(text, end)
    end = tail.end() if tail else end
    after = text[end : end + 1]
    if after.isdecimal() or _ascii_word(after) or (after and after in "%°=元块塊円℃"):
        return None
    return None if after in ("-", ".") and text[end + 1 : end + 2].isdecimal() else end


def _ascii_word(character: str) -> bool:
    return character.isascii() and (character.isalnum() or character == "_")


def _part_of_another(before: str, joined: bool) -> bool:
    """Whether the number goes on something longer: a word, a price, a path, a web address, where numbers name pages."""
    left = before[-1:]
    if left and (_ascii_word(left) or left in "$€£¥%"):
        return _CONTACT_LETTERS.search(before) is None
    if _SUM.search(before) or _CLOCK.search(before):
        return True
    if left and left in ".-/,=&" and _ascii_word(before[-2:-1]) and not joined:
        return True
    token = re.split(r"[\s<>\"'，。；、（）]", before)[-1].lower()
    return "://" in token or token.startswith("www.")
