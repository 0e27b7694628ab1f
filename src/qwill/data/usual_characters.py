"""How usual a character is where it stands: what tells text from bytes that were decoded wrongly."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache, lru_cache

# The commonest characters of running text, by the usual frequency lists: half of what stands in any page.
_CHINESE = (
    "的一是不了在人有我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之年过发后作里用道行所然家种事成方多经么去"
    "法学如都同现当没动面起看定天分还进好小部其些主样理心她本前开但因只从想实日军者意无力它与长把机十民第公此已工使情明性知全三又关点"
    "正业外将两高间由问很最重并物手应战向头文体政美相见被利什二等产或新己制身果加西月话合回特代内信表化老给世位次度门任常先海通教儿原"
    "东声提立及比员解水名真论处走义各入几口认条平系气题活更别打女变四神总何电数安少报才结反受目太量再感建务做接必场件计管期市直资命山"
    "金指许统区保至队形社便空决治展马科司五基眼书非则听白却界达光放强即像难且权思王完设式色路记南品住告类求据程北边死张该交规万取望觉"
    "術這個們來為國說時會對後過發裡種經麼學樣現當沒動還進開從實軍無與長機關點業將兩間問應戰體見產話給門東聲員論處義氣題別變總電數報結"
    "認條務場計馬則書聽達強難權設類據邊張該規萬覺領確傳師觀讓識帶導爭運請買賣車電腦選單鍵檔圖"
)
_KOREAN = (
    "이다는에의을가고를한은하지로도기사자리나인시대어그서으아게들있해것과수일정부전보원제만라주상스장면여구적조유성위마안신경공개국동"
    "트없습니까요년러때생각말했던및할되된"
)
_LETTERS = "оеаинтсрвлкмдпуяαοιετσνηυρπκμλάόίέή"  # the commonest of Russian and Greek
_THAI = "กขคงจชซดตถทนบปผพฟมยรลวสหอะัาำิีึืุูเแโใไ็่้์"
_HEBREW_FINALS = "ךםןףץ"
_PUNCTUATION = "，。、：；！？“”‘’（）《》「」『』【】—…·–•©®°€£"


@cache
def _tables() -> tuple[frozenset[str], frozenset[str]]:
    """(Han characters of everyday use, Hangul syllables of everyday use): the first levels of GB 2312, Big5, and
    KS X 1001, which were drawn up by frequency."""
    high = range(0xA1, 0xFF)
    han = _characters("gb2312", range(0xB0, 0xD8), high)
    han |= _characters("big5", range(0xA4, 0xC7), (*range(0x40, 0x7F), *high))
    return han, _characters("euc_kr", range(0xB0, 0xC9), high)


def _characters(encoding: str, rows: Iterable[int], cells: Iterable[int]) -> frozenset[str]:
    pairs = [bytes((row, cell)) for row in rows for cell in cells]
    return frozenset(c for pair in pairs if (c := pair.decode(encoding, "ignore")) >= "\u4e00")


_SCRIPTS = (
    ("latin", 0xC0, 0x24F), ("greek", 0x370, 0x3FF), ("cyrillic", 0x400, 0x4FF), ("hebrew", 0x590, 0x5FF),
    ("arabic", 0x600, 0x6FF), ("thai", 0xE00, 0xE7F), ("hiragana", 0x3041, 0x309F), ("katakana", 0x30A0, 0x30FF),
    ("han", 0x3400, 0x9FFF), ("hangul", 0xAC00, 0xD7A3),
)  # fmt: skip


@lru_cache(maxsize=65536)
def _script(c: str) -> str:
    point = ord(c)
    if c.isascii():
        return "latin" if c.isalpha() else ""
    return next((name for name, first, last in _SCRIPTS if first <= point <= last), "")


@lru_cache(maxsize=65536)
def _alone(c: str) -> float:
    if c in _CHINESE or c in _KOREAN or c in _PUNCTUATION:
        return 1.0
    han, hangul = _tables()
    if c in han or c in hangul:
        return 0.3
    script, point = _script(c), ord(c)
    if script == "hiragana":
        return 0.9
    if script == "katakana":
        return 0.6
    if script in ("han", "hangul"):
        return -0.2
    if script == "thai":
        return 0.8 if c in _THAI else -0.5
    if script in ("cyrillic", "greek"):
        return 0.9 if c.lower() in _LETTERS else 0.5
    if script:
        return 0.8
    if point < 0xA0 or 0xE000 <= point < 0xF900 or c == "\ufffd" or point > 0xFFFF:
        return -1.0
    if 0xFF61 <= point <= 0xFF9F:  # half-width katakana: what most misread Shift-JIS turns into
        return -0.3
    return 0.3 if 0xFF00 <= point <= 0xFFEF or 0x3000 <= point <= 0x30FF or point == 0xA0 else -0.1


_EAST = {"han", "hiragana", "katakana"}


def usual(c: str, before: str) -> float:
    """1 for a character that is common in text, down to -1 for one that hardly ever is there, `before` standing in
    front of it."""
    own, last = _script(c), _script(before)
    value = _alone(c)
    if not own or not last:
        return value
    if own != last and not (own in _EAST and last in _EAST):
        # Scripts meet in running text, but not within words.
        return value - (0.6 if own not in _EAST or last not in ("latin",) else 0.0)
    if own == "latin":
        return value - (1.0 if not before.isascii() or (c.isupper() and before.islower()) else 0.0)
    if before in _HEBREW_FINALS:
        return -1.0
    if c.isupper():
        return value - (1.5 if before.islower() else 0.5)
    return value
