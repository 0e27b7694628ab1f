"""What looks like personal data and is none: for every kind its hard negatives, and the numbers of ordinary text.

Made as made_up_personal_data.py says.
"""

# fmt: off
from __future__ import annotations

import random
import string
import uuid
from collections.abc import Callable

from made_up_personal_data import FIRST, LAST, card_number, digits, iban_number, luhn_digit, mobile, resident

R = random.Random


def _date(rng: R) -> str:
    y, m, d = rng.randrange(1900, 2030), rng.randrange(1, 13), rng.randrange(1, 29)
    return rng.choice(
        [f"{y}-{m:02d}-{d:02d}", f"{y}/{m}/{d}", f"{d:02d}.{m:02d}.{y}", f"{m}/{d}/{y}", f"{y}{m:02d}{d:02d}",
            f"{y}年{m}月{d}日", f"{y}.{m:02d}.{d:02d}",
        f"{y}-{m:02d}-{d:02d} {rng.randrange(24):02d}:{rng.randrange(60):02d}:{rng.randrange(60):02d}",
            f"{y}–{y + rng.randrange(90)}",
        f"{y}{m:02d}{d:02d}{rng.randrange(24):02d}{rng.randrange(60):02d}{rng.randrange(60):02d}",
            f"{y}-{m:02d}-{d:02d}T09:30:00Z"]
    )


def _isbn(rng: R) -> str:
    n = rng.choice(["978", "979"]) + digits(rng, 9)
    n += str(-sum(int(c) * (3 if i % 2 else 1) for i, c in enumerate(n)) % 10)
    return rng.choice([n, f"{n[:3]}-{n[3]}-{n[4:7]}-{n[7:12]}-{n[12]}", f"{n[:3]}-{n[3:12]}{n[12]}",
        f"{n[3]}-{n[4:7]}-{n[7:12]}-X", f"{n[:3]} {n[3]} {n[4:8]} {n[8:12]} {n[12]}"])


def _bare_run(rng: R) -> str:
    """Any digits; not eleven that begin as a mobile number does, nor a leading zero, as area codes have."""
    while True:
        n = digits(rng, rng.randrange(6, 23), "123456789")
        if not (len(n) in (11, 13, 15) and (n[0] == "1" or n[:3] == "861")):
            return n


def _labelled(rng: R, language: str) -> str:
    n = rng.choice([digits(rng, rng.randrange(7, 20)), mobile(rng), _date(rng).replace("-", "") + digits(rng, 6)])
    labels = {
        "en": ["Order no. {}", "order #{}", "Invoice {}", "Serial number: {}", "part no. {}", "Item {}",
            "tracking number {}", "ISBN {}", "ID {}",
               "ticket #{}", "Case No. {}", "ref: {}", "batch {}", "patent US{}B2", "barcode {}", "PMID: {}",
                   "build {}", "SKU-{}", "timestamp {}",
               "Model {}", "transaction id {}", "/orders/{}/edit", "https://shop.example/item/{}.html", "commit {}",
                   "doi:10.1000/{}"],
        "zh": ["订单号：{}", "订单编号{}", "快递单号{}", "运单号:{}", "型号{}", "序列号：{}", "商品编号：{}",
            "流水号{}", "合同编号：{}", "条形码{}",
               "货号:{}", "批号{}", "专利号ZL{}.X", "案号{}", "学号{}", "时间戳{}",
                   "https://item.jd.com/{}.html", "交易单号{}"],
    }[language]
    return rng.choice(labels).format(n)


def ordinary(rng: R, language: str) -> str:
    """Numbers as they are everywhere."""
    n, m = rng.randrange(1, 10**6), rng.random()
    kind = rng.randrange(24)
    en = language == "en"
    words = "the result was {} in total" if en else "结果一共是{}左右"
    value = [
        _date, _date, _isbn, _bare_run,
        lambda r: f"{r.choice('$€£¥')}{n:,}.{r.randrange(100):02d}",
        lambda r: f"{n}元" if not en else f"{n:,} dollars",
        lambda r: f"{90 * m:.6f}, {180 * r.random():.6f}",
        lambda r: f"{90 * m:.7f} {180 * r.random():.7f}",
        lambda r: f"{r.randrange(24)}:{r.randrange(60):02d}:{r.randrange(60):02d}.{r.randrange(1000):03d}",
        lambda r: f"v{r.randrange(30)}.{r.randrange(30)}.{r.randrange(200)}",
        lambda r: " ".join(str(r.randrange(10**r.randrange(1, 5))) for _ in range(8)),
        lambda r: ", ".join(f"{r.random():.4f}" for _ in range(6)),
        lambda r: f"{m:.16f}", lambda r: f"{n / 7:.12e}", lambda r: f"3.{digits(r, 30)}",
        lambda r: f"{r.getrandbits(128):032x}",
            lambda r: str(uuid.UUID(int=r.getrandbits(128), version=4)),
        lambda r: ":".join(f"{r.randrange(256):02X}" for _ in range(6)),
        lambda r: f"{r.randrange(50, 9999)}-{r.randrange(10, 99)}-{r.randrange(10)}",
        lambda r: f"{n} + {n + 5} = {2 * n + 5}", lambda r: f"{n} × {n} = {n * n}",
            lambda r: f"2^{r.randrange(20, 70)} = {2 ** r.randrange(20, 70)}",
        lambda r: f"pp. {n % 900}-{n % 900 + 20}, vol. {n % 70}({n % 9})",
            lambda r: f"{17 * 10**8 + r.randrange(10**8)}{r.choice(['', '000'])}",
    ][kind](rng)
    return words.format(value)


def not_email(rng: R, language: str) -> str:
    a, b = rng.choice(FIRST), rng.choice(LAST)
    text = rng.choice(
        [f"follow @{a}_{b} on it", f"lunch @ {rng.randrange(1, 12)}pm", f"{a}@localhost",
            f"logo@{rng.choice('234')}x.png", f"react@{rng.randrange(20)}.{rng.randrange(9)}.1",
        f"git@github.com:{a}/{b}.git", "@media (max-width: 600px)", f"@{a}.route('/x')", f"{a}@example.com",
            f"{a}.{b}@mail.example.org", f"{a}@{b}.test",
        f"@types/node@{rng.randrange(20)}.{rng.randrange(99)}.{rng.randrange(9)}", "x = a @ b.T", f"{a}@{b}",
            f"root@{a}-pc:~$ ls", f"{a} @{b}: yes. ok",
        f"https://medium.com/@{a}{b}/post-{rng.randrange(999)}", f"ssh {a}@192.168.0.{rng.randrange(255)}",
            f"sprite@{rng.randrange(9)}x.webp",
        f"5 apples @ ${rng.randrange(9)}.99 each", f"{a}@{b}.local", "meet at the dot com office", "user@.com",
            f"{a}@",
        f"ARG @{b}.name = 1", f"obj@{hex(rng.getrandbits(32))}", f"look at {b} and dot it"]
    )
    return text if language == "en" else f"例如{text}这样写"


def not_ip(rng: R, language: str) -> str:
    o = [rng.randrange(256) for _ in range(4)]
    private = rng.choice(
        [f"192.168.{o[0]}.{o[1]}", f"10.{o[0]}.{o[1]}.{o[2]}", f"172.{rng.randrange(16, 32)}.{o[0]}.{o[1]}",
            "127.0.0.1", "0.0.0.0", f"169.254.{o[0]}.{o[1]}",
        f"255.255.{o[0]}.0", f"192.0.2.{o[0]}", f"203.0.113.{o[0]}", f"224.0.0.{o[0]}", "::1",
            "fe80::1ff:fe23:4567:890a", f"2001:db8::{o[0]:x}", "fd12:3456:789a::1"]
    )
    small = [rng.randrange(20) for _ in range(4)]
    dotted, odd = ".".join(map(str, small)), ".".join(map(str, o))
    en = [f"host {private} is local", f"version {odd}", f"v{odd}", f"Chrome/{odd} Safari", f"Section {dotted} Scope",
        f"{dotted} Introduction", f"{odd}.{o[0]}",
          f"{o[0] + 256}.{o[1]}.{o[2]}.{o[3]}", f"OID 1.3.6.1.4.{o[0]}", f"release {odd} is out",
              f"lib-{odd}.tar.gz", f"std::vector<{o[0]}>::iterator",
          f"at {o[0] % 24}:{o[1] % 60}:{o[2] % 60} sharp", f"a[{o[0]}::{o[1]}]",
              f"{o[0]:02x}:{o[1]:02x}:{o[2]:02x}:{o[3]:02x}:aa:bb", f"firmware {odd}", f"Foo::Bar::{o[0]}",
          f"ratio {o[0]}:{o[1]}:{o[2]}", f"John 3:{o[0]}; 4:{o[1]}", f"see § {dotted}"]
    zh = [f"内网地址{private}", f"版本{odd}", f"版本号：{odd}", f"第{dotted}节", f"{dotted} 概述", f"固件{odd}发布",
        f"比分{o[0]}:{o[1]}:{o[2]}", f"软件V{odd}", f"时间{o[0] % 24}:{o[1] % 60}:{o[2] % 60}",
          f"本机{private}"]
    return rng.choice(en if language == "en" else zh)


def not_phone(rng: R, language: str) -> str:
    d = lambda n: digits(rng, n, "123456789")  # noqa: E731
    if rng.random() < 0.3:
        return _labelled(rng, language)
    shapes = [
        f"{d(3)}-{d(3)}-{d(4)}-{d(2)}", f"AB-{d(3)}-{d(4)}", f"{d(3)}-{d(2)}-{d(4)}x", f"P/N {d(4)}-{d(3)}-{d(4)}",
            f"{d(3)},{d(3)},{d(4)}", f"{d(2)}.{d(3)}.{d(3)}", f"{d(3)}.{d(4)} {d(3)}.{d(4)}",
        f"SN1{d(10)}", f"{d(3)} {d(3)} {d(3)}", f"{d(4)}x{d(4)}", f"{d(2)}/{d(3)}/{d(4)}", f"{d(4)} {d(4)} {d(4)}",
            f"0x{d(8)}", f"+{d(2)}.{d(2)}%", f"+{d(3)} {d(3)} km", f"$1{d(10)}",
        f"1{d(10)}元", f"{d(3)}-{d(4)}", f"1:{d(4)}:{d(4)}", f"room {d(3)}, {d(4)} people", f"{d(4)}-{d(4)}",
            f"19{d(2)}-20{rng.randrange(10, 30)}-{rng.randrange(10, 30)}",
        f"0.{d(10)}", f"1{d(10)}.{d(2)}", f"{d(5)}-{d(5)}", f"lat={d(2)}.{d(8)}", f"UTC+0{d(1)}00 {d(4)}",
            f"17{d(8)}", f"16{d(11)}", f"id=1{d(10)}", f"img_1{d(10)}.jpg", f"00{d(6)}", f"E=1{d(10)}",
    ]
    frames = ["it reads {} here", "{}", "set to {}, then on", "figure: {}"] if language == "en" else ["数值为{}，",
        "{}",
        "结果是{}。", "图中{}处"]
    return rng.choice(frames).format(rng.choice(shapes))


def not_resident_id(rng: R, language: str) -> str:
    n = resident(rng)
    wrong = n[:17] + rng.choice([c for c in "0123456789X" if c != n[17]])
    month = n[:10] + rng.choice(["13", "00", "45"]) + n[12:]
    code = "91" + digits(rng, 6) + "".join(rng.choices("0123456789ABCDEFGHJKLMNPQRTUWXY", k=10))
    value = rng.choice([wrong, wrong, month, "0" + n[1:], code, digits(rng, 18), "2024" + digits(rng, 14),
        n + digits(rng, 2), digits(rng, 3) + n, f"x{n}", n[:15], f"{n[:6]}.{n[6:]}"])
    frames = ["code {} is used", "{}", "number: {}"] if language == "en" else ["编号{}", "统一社会信用代码{}", "{}",
        "单号：{}"]
    return rng.choice(frames).format(value)


def not_card(rng: R, language: str) -> str:
    if rng.random() < 0.2:
        return _labelled(rng, language)
    _, n = card_number(rng)
    bad = n[:-1] + str((int(n[-1]) + rng.randrange(1, 10)) % 10)
    foreign = rng.choice("017") + digits(rng, 14)
    grouped = " ".join(bad[i : i + 4] for i in range(0, len(bad), 4))
    imei = "35" + digits(rng, 12)
    value = rng.choice(
        [bad, bad, grouped, grouped.replace(" ", "-"), foreign + luhn_digit(foreign),
            f"IMEI {imei}{luhn_digit(imei)}", _isbn(rng), "1" + digits(rng, 18), f"{n}{digits(rng, 6)}", f"x{n}y",
        f"order no. {n}" if language == "en" else f"订单号：{n}", " ".join(digits(rng, 4,
            "0178") for _ in range(4)),
            f"0.{n}", "-".join(digits(rng, 4, "79") for _ in range(4))]
    )
    return rng.choice(["{}", "see {} there", "value {}"] if language == "en" else ["{}", "见{}处",
        "数值{}"]).format(value)


def not_iban(rng: R, language: str) -> str:
    n = iban_number(rng)
    bad = n[:2] + f"{(int(n[2:4]) + rng.randrange(1, 90)) % 97 + 2:02d}" + n[4:]
    bad = bad if int("".join(str(int(c,
        36)) for c in bad[4:] + bad[:4])) % 97 != 1 else bad[:-1] + ("1" if bad[-1] != "1" else "2")
    value = rng.choice(
        [bad, " ".join(bad[i : i + 4] for i in range(0, len(bad), 4)), n[:-1], n + "7", "XX" + n[2:],
            "".join(rng.choices(string.ascii_uppercase + string.digits, k=22)), f"A{n}",
        f"DE{digits(rng, 9)}", f"US{digits(rng, 7)}B2", f"GB{digits(rng, 20)}", "NO12 ROADS LEAD TO ROME AND BACK"]
    )
    return rng.choice(["{}", "code {} here"] if language == "en" else ["{}", "代码{}如下"]).format(value)


def not_bank(rng: R, language: str) -> str:
    if language == "en":
        return rng.choice(
            ["My account has {} followers.", "The account of {} years in prison.", "On account of {} votes",
                "Bank holiday on {}.", "The bank had {} customers.", "user account {} was closed",
                "call routing took {} ms",
             "It accounts for {} of them.", "river bank at km {}", "According to bank data, {} dollars"]
        ).format(rng.choice([digits(rng, rng.randrange(3, 9), "123456789"), _date(rng)]))
    return rng.choice(["我的游戏账号是{}", "账户余额{}元", "账号登录失败{}次", "银行有{}名员工", "汇率为{}",
        "公众号粉丝{}", "银行股{}", "帐篷{}顶", "转型{}",
        "网站账户{}已注销"]).format(digits(rng, rng.randrange(3, 10), "123456789"))


def not_passport(rng: R, language: str) -> str:
    n = rng.choice([digits(rng, rng.randrange(1, 6), "123456789"), _date(rng), f"{rng.randrange(10**6):,}",
        digits(rng, 12, "123456789")])
    if language == "en":
        return rng.choice(["Passports were issued in {}.", "He renewed his passport on {}", "passport fees of ${}",
            "about {} passports", "passport control, gate {}", "form DS-{} for a passport",
            "E12345 is a road, {} long", f"model E{digits(rng, 8)} costs {{}}"]).format(n)
    return rng.choice(["护照办理费用{}元", "{}年护照", "护照于{}签发", "约{}本护照", "护照查验口{}",
        f"型号E{digits(rng, 8)}售价{{}}",
        "有护照的人有{}名"]).format(n)


def not_secret(rng: R, language: str) -> str:
    return rng.choice(
        [f"https://{rng.choice(LAST)}.com/a:b/c@d", "sk-learn is a library",
            f"http://host:{rng.randrange(9999)}/@{rng.choice(FIRST)}", "AKIA is a prefix", "ghp_ tokens",
            f"{rng.getrandbits(160):040x}", "sk-12", "eyJ begins JSON", "BEGIN PUBLIC KEY",
        f"https://www.example.com:{rng.randrange(9999)}/x", f"key-{digits(rng, 20)}", "mailto://a",
            f"task-{'a' * 30}", f"disk-{digits(rng, 30)}"]
    ) + ("。" if language == "zh" else ".")


LOOK_ALIKES: dict[str, Callable[[R, str], str]] = {
    "email": not_email, "ip": not_ip, "phone": not_phone, "resident_id": not_resident_id, "card": not_card,
        "iban": not_iban,
    "bank": not_bank, "passport": not_passport, "secret": not_secret,
}


def look_alike(kind: str, rng: R, language: str) -> str:
    """A hard negative of `kind`; every third time an ordinary number."""
    return ordinary(rng, language) if rng.random() < 1 / 3 else LOOK_ALIKES[kind](rng, language)
