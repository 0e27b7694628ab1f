"""Personal data that is nobody's, in the forms in which people write it, and what only looks like it.

Made without a look at what the detector seeks: forms are those of letters, forms, signatures, logs and chats. A
negative may have the form of the thing where its words say that it is something else ("order no."), and never where
nothing would tell it apart: a bare number that is a valid mobile number is one.
"""

# fmt: off
from __future__ import annotations

import ipaddress
import random
import string
from collections.abc import Callable

Planted = tuple[str, str]  # the value as written, and the sentence with {} for it
R = random.Random

def _words(text: str) -> list[str]:
    return text.split()


FIRST = _words(
    "anna bob carla david elena frank grace henry ivan julia kevin laura mike nina oscar paula "
    "qing rosa sam tina wei"
)
LAST = _words("smith jones garcia mueller wang zhang chen liu rossi novak kim tanaka silva brown okafor haddad singh")


def digits(rng: R, n: int, first: str = "0123456789") -> str:
    return rng.choice(first) + "".join(rng.choices(string.digits, k=n - 1)) if n else ""


def wide(text: str) -> str:
    return "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text)


def luhn_digit(body: str) -> str:
    total = sum(sum(divmod(int(c) * (2 if i % 2 == 0 else 1), 10)) for i, c in enumerate(reversed(body)))
    return str(-total % 10)


def maybe_wide(text: str, rng: R, language: str) -> str:
    return wide(text) if language == "zh" and rng.random() < 0.15 else text


# ------------------------------------------------------------------ what is planted


def email(rng: R, language: str) -> Planted:
    a, b, n = rng.choice(FIRST), rng.choice(LAST), rng.randrange(1, 2000)
    local = rng.choice(
        [f"{a}.{b}", f"{a}{n}", f"{a}_{b}", f"{a[0]}{b}", f"{a}-{b}{n}", f"{a}+news",
        digits(rng, rng.randrange(6, 11), "123456789"),
        f"{a}.{b}.{n}", f"{a.upper()}.{b.upper()}", f"{a.title()}{b.title()}", "info", "hr-dept", f"{a}.o'{b}"]
    )
    host = "".join(rng.choices(string.ascii_lowercase, k=rng.randrange(2, 11)))
    domain = rng.choice(
        ["gmail.com", "qq.com", "163.com", "outlook.com", "hotmail.co.uk", "yahoo.co.jp", "foxmail.com", "icloud.com",
        *(f"{host}.{t}" for t in ("com", "org", "net", "io", "de", "cn", "com.cn", "co.uk", "edu", "gov.cn", "travel")),
        f"cs.{host}.edu.cn", f"mail.{host}-{b}.com.au", f"{host}.academy", f"{host.upper()}.COM", f"{host}2.fr"]
    )
    value = f"{local}@{domain}"
    kind = rng.random()
    if kind < 0.03:
        value = f"{local} [at] {domain.replace('.', ' [dot] ')}"
    elif kind < 0.05:
        value = f"{local}(at){domain}"
    elif kind < 0.07:
        value = f"{local} @ gmail.com"
    elif kind < 0.12 and language == "zh":
        value = f"{local}＠{domain}"
    value = maybe_wide(value, rng, language) if "'" not in value else value
    return value, rng.choice(
        {
            "en": ["Write to {} for details.", "Contact: {}", "I'm at {}, thanks!", "<a href=\"mailto:{}\">mail</a>",
                "{}",
                   "From: Anna <{}>\nSubject: hi", "(e-mail: {})", "Our address is {}.", "Email:{};",
                       "send it to {} or to me",
                   "user,{},active", "/subscribe?email={}&x=1", "\"{}\" bounced", "- {}\n- next", "| {} | admin |"],
            "zh": ["请发邮件到{}联系我们。", "邮箱：{}", "我的邮箱是{}，谢谢", "（{}）", "联系方式:{} 欢迎来信",
                "投稿请寄{}。",
                   "E-mail：{}\n地址：北京", "有意者把简历发到{}吧", "【{}】", "作者：王伟，{}；", "发我{}谢啦"],
        }[language]
    )


def public_ip(rng: R, version: int) -> str:
    while True:
        value = rng.getrandbits(32) if version == 4 else (1 << 125) | rng.getrandbits(125)
        if version == 6 and rng.random() < 0.5:
            value &= ~(((1 << rng.choice([64, 80, 96])) - 1) << 16)
        address = ipaddress.ip_address(value) if version == 4 else ipaddress.IPv6Address(value)
        if address.is_global and not address.is_multicast and not address.is_reserved:
            return str(address)


def ip(rng: R, language: str) -> Planted:
    if rng.random() < 0.7:
        value, frames = public_ip(rng, 4), ["{}:8080 is open", "http://{}/index.html",
            "{} - - [10/Oct/2000:13:55:36] \"GET /\" 200"]
        frames += ["route {}/24 via eth0", "Failed login from {} port 22"]
    else:
        value, frames = public_ip(rng, 6), ["[{}]:443 answered", "http://[{}]/", "inet6 {} prefixlen 64"]
        value = value.upper() if rng.random() < 0.3 else value
    if language == "en":
        frames += ["My IP is {}.", "The host {} does not answer", "{}", "client={}, status=200",
            "blocked ({}) today", "ping {}"]
    else:
        frames = ["他的IP地址是{}。", "服务器{}无法访问", "登录IP：{}，地点未知", "（{}）", "发帖人 {} 发表于昨天",
            "屏蔽了{}这个地址"]
        value = maybe_wide(value, rng, language)
    return value, rng.choice(frames)


AREAS = _words("201 202 205 206 212 213 214 303 305 312 313 404 415 503 512 602 617 702 713 718 808 818 916 917 949")
CITIES = {"010": 8, "021": 8, "022": 8, "023": 8, "024": 8, "025": 8, "027": 8, "028": 8, "029": 8, "0755": 8,
    "0571": 8,
          "0512": 8, "0591": 8, "0371": 8, "0311": 8, "0451": 8, "0731": 8, "0851": 8, "0898": 8, "0991": 7,
              "0551": 8}
MOBILE = _words(
    "130 131 132 133 134 135 136 137 138 139 147 150 151 152 153 155 156 157 158 159 166 170 "
    "173 175 176 177 178"
)
MOBILE += _words("180 181 182 183 184 185 186 187 188 189 191 193 195 198 199")


def mobile(rng: R) -> str:
    return rng.choice(MOBILE) + digits(rng, 8)


def chinese_phone(rng: R) -> str:
    m, a, b = mobile(rng), "", ""
    a, b = m[3:7], m[7:]
    city = rng.choice(list(CITIES))
    local = digits(rng, CITIES[city], "5678")
    return rng.choice(
        [m] * 6
        + [f"{m[:3]} {a} {b}", f"{m[:3]}-{a}-{b}", f"+86 {m}", f"+86{m}", f"+86-{m[:3]}-{a}-{b}", f"86-{m}",
            f"(+86){m}",
        f"+86 {m[:3]} {a} {b}", f"0086 {m}", f"{m[:3]}—{a}—{b}", f"{m[:3]}.{a}.{b}", f"{m[:3]}-{a}{b}",
        f"{city}-{local}", f"{city}{local}", f"({city}){local}", f"（{city}）{local}", f"{city} {local}",
            f"{city}—{local}",
        f"+86-{city[1:]}-{local}", f"+86 {city[1:]} {local}", f"{city}-{local[:4]} {local[4:]}",
            f"{city}-{local}转{digits(rng, 3)}",
        f"{city}-{local}-{digits(rng, 3)}"]
    )


def foreign_phone(rng: R) -> str:
    area, x, y = rng.choice(AREAS), digits(rng, 3, "23456789"), digits(rng, 4)
    x = x if x[1:] != "11" else x[0] + "27"
    london = rng.choice("78") + digits(rng, 3)
    uk = f"7{rng.choice(['400', '500', '700', '711', '800', '900', '911'])}"
    six = digits(rng, 6)
    return rng.choice(
        [f"({area}) {x}-{y}", f"{area}-{x}-{y}", f"{area}.{x}.{y}", f"+1 {area} {x} {y}", f"+1-{area}-{x}-{y}",
            f"1-{area}-{x}-{y}"] * 2
        + [f"+1 ({area}) {x}-{y}", f"+1{area}{x}{y}", f"1 ({area}) {x}-{y}", f"({area}){x}-{y}", f"{area} {x}-{y}",
        f"({area}) {x}-{y} ext. {digits(rng, 3)}", f"{area}-{x}-{y} x{digits(rng, 2)}",
        f"+44 20 {london} {y}", f"020 {london} {y}", f"+44 (0)20 {london} {y}", f"0{uk} {six}", f"+44 {uk} {six}",
        f"+49 30 {digits(rng, 7, '23456789')}", f"+49 151 {digits(rng, 8, '12345')}",
            f"+33 6 {digits(rng, 2, '123456')} {y[:2]} {y[2:]} {six[:2]}",
        f"+61 4{digits(rng, 2, '0123')} {six[:3]} {six[3:]}", f"+91 98{digits(rng, 3)} {digits(rng, 5)}",
            f"+81 90-{y}-{digits(rng, 4)}",
        f"+852 9{digits(rng, 3, '1234')} {y}", f"+65 9{digits(rng, 3, '0123')} {y}", f"0044 20 {london} {y}"]
    )


def phone(rng: R, language: str) -> Planted:
    value = foreign_phone(rng) if (language == "en") == (rng.random() < 0.9) else chinese_phone(rng)
    frames = {
        "en": ["Call me at {} after five.", "Phone: {}", "Tel. {}", "My number is {}.", "Ring {} and ask for Ann",
            "Mobile {}, fax on request",
               "Text {} to book", "You can reach us at {}!", "{}", "Anna Brown\n{}\nLondon", "contact: Bob ({})",
                   "Phone number:{}",
               "WhatsApp {} only", "Smith, J., {}, room 4"],
        "zh": ["请拨打{}咨询。", "电话：{}", "手机{}", "我的手机号是{}，随时联系", "联系人：王先生 {}", "有事打{}",
            "Tel:{}", "张伟，{}，北京",
               "（{}）", "微信同号{}", "{}", "加我{}谢谢", "传真：{}；", "订房热线{}。", "收件人李娜{}上海市"],
    }[language]
    return maybe_wide(value, rng, language), rng.choice(frames)


PROVINCE = _words(
    "110101 120103 130102 210102 310104 320106 330106 370202 420106 440305 440106 510107 610113 "
    "500103 350203"
)


def resident(rng: R) -> str:
    birth = f"{rng.randrange(1930, 2015)}{rng.randrange(1, 13):02d}{rng.randrange(1, 29):02d}"
    body = rng.choice(PROVINCE) + birth + digits(rng, 3)
    weights = [pow(2, 17 - i, 11) for i in range(17)]
    return body + "10X98765432"[sum(int(c) * w for c, w in zip(body, weights, strict=True)) % 11]


def resident_id(rng: R, language: str) -> Planted:
    n = resident(rng)
    n = n.lower() if rng.random() < 0.3 else n
    value = rng.choice([n] * 5 + [f"{n[:6]} {n[6:14]} {n[14:]}", f"{n[:6]}-{n[6:14]}-{n[14:]}",
        f"{n[:6]} {n[6:10]} {n[10:14]} {n[14:]}"])
    frames = {
        "en": ["Chinese ID card no. {}.", "His resident identity number is {}", "ID: {}", "{}",
            "Wang Wei ({}), Beijing", "name,{},age"],
        "zh": ["身份证号：{}", "身份证号码为{}，请核对。", "王伟（{}）", "公民身份号码{}", "{}", "我叫张三，{}，男",
            "证件号:{};", "被告李四,身份证{}住北京"],
    }[language]
    return maybe_wide(value, rng, language), rng.choice(frames)


def card_number(rng: R) -> tuple[str, str]:
    prefix, length = rng.choice(
        [("4", 16)] * 3 + [(f"5{rng.randrange(1, 6)}", 16)] * 2 + [("34", 15), ("37", 15), ("6011", 16), ("62", 16),
            ("62", 19), ("62", 19),
        ("3530", 16), ("36", 14), ("2223", 16), ("65", 16)]
    )
    body = prefix + digits(rng, length - len(prefix) - 1)
    return prefix, body + luhn_digit(body)


def card(rng: R, language: str) -> Planted:
    _, n = card_number(rng)
    if len(n) in (14, 15):
        value = rng.choice([n, f"{n[:4]} {n[4:10]} {n[10:]}", f"{n[:4]}-{n[4:10]}-{n[10:]}"])
    else:
        groups = [n[i : i + 4] for i in range(0, len(n), 4)]
        value = rng.choice([n, " ".join(groups), "-".join(groups), " ".join(groups)])
    frames = {
        "en": ["My card number is {}.", "Visa {} exp 12/27", "Charge it to {}, please", "{}",
            "credit card: {}; CVV 123", "card={}", "cc {}"],
        "zh": ["卡号：{}", "我的信用卡号是{}，有效期明年", "请汇到银行卡{}", "{}", "工行{}张三", "刷了{}这张卡",
            "（{}）"],
    }[language]
    return maybe_wide(value, rng, language), rng.choice(frames)


def iban_number(rng: R) -> str:
    country, body = rng.choice(
        [("DE", digits(rng, 18)), ("GB", "NWBK" + digits(rng, 14)), ("FR", digits(rng, 23)), ("ES", digits(rng, 20)),
            ("NL", "ABNA" + digits(rng, 10)),
        ("IT", "X" + digits(rng, 22)), ("CH", digits(rng, 17)), ("AT", digits(rng, 16)), ("BE", digits(rng, 12)),
            ("SA", digits(rng, 20))]
    )
    value = int("".join(str(int(c, 36)) for c in body + country + "00"))
    return f"{country}{98 - value % 97:02d}{body}"


def iban(rng: R, language: str) -> Planted:
    n = iban_number(rng)
    value = n if rng.random() < 0.5 else " ".join(n[i : i + 4] for i in range(0, len(n), 4))
    frames = {
        "en": ["IBAN: {}", "Please pay to {} by Friday.", "{}", "account {} (BIC ABCDDEFF)",
            "Bank: X, IBAN {}, thanks"],
        "zh": ["收款账号IBAN：{}", "请汇款至{}。", "{}", "国际账号{}，谢谢"],
    }[language]
    return maybe_wide(value, rng, language), rng.choice(frames)


def bank(rng: R, language: str) -> Planted:
    if language == "en":
        return rng.choice(
            [
                (digits(rng, 8), "Bank details: account number {}, Barclays."),
                (digits(rng, rng.randrange(9, 13), "123456789"), "Wire it to my bank, account no. {}."),
                ("-".join(digits(rng, 2, "12345689") for _ in range(3)), "Our bank's sort code is {}."),
                (digits(rng, 9, "123"), "routing number {} for direct deposit"),
                (digits(rng, 10, "123456789"), "Savings acct #{} at Chase"),
                (f"{digits(rng, 4, '123456789')} {digits(rng, 4)}", "Beneficiary bank HSBC, Account No: {}"),
            ]
        )
    n = digits(rng, rng.randrange(12, 20), "013457")
    while luhn_digit(n[:-1]) == n[-1]:  # that would be a card
        n = digits(rng, len(n), "013457")
    value = rng.choice([n, " ".join(n[i : i + 4] for i in range(0, len(n), 4))])
    frames = ["开户行：中国工商银行北京分行，账号：{}", "银行账号：{}", "请汇款到农业银行账户{}",
        "建设银行帐号 {} 户名张三", "对公账户：{}（招商银行）"]
    return maybe_wide(value, rng, language), rng.choice(frames)


def passport(rng: R, language: str) -> Planted:
    value = rng.choice(
        ["E" + digits(rng, 8, "123456789"), "G" + digits(rng, 8, "123456789"),
            "E" + rng.choice("ABCDEFGH") + digits(rng, 7, "123456789"), digits(rng, 9, "123456789"),
        rng.choice("ABCDXY") + digits(rng, 8, "123456789"), rng.choice(["AB", "PA", "XP"]) + digits(rng, 7,
            "123456789")]
    )
    frames = {
        "en": ["Passport number: {}", "passport no. {}, issued in Beijing", "My passport is {}.", "PASSPORT {}",
            "She holds passport {} of China",
               "Travel document (passport): {}"],
        "zh": ["护照号：{}", "护照号码为{}。", "中国护照{}", "护照编号: {}", "护照（{}）"],
    }[language]
    return maybe_wide(value, rng, language), rng.choice(frames)


def secret(rng: R, language: str) -> Planted:
    letters = string.ascii_letters + string.digits

    def some(n: int, of: str = letters) -> str:
        return "".join(rng.choices(of, k=n))

    user, password = rng.choice(FIRST), some(rng.randrange(6, 16))
    value, frame = rng.choice(
        [(f"{user}:{password}", "postgres://{}@db.internal:5432/app"), (f"{user}:{password}",
            "git clone https://{}@github.com/x/y.git"),
        ("AKIA" + some(16, string.ascii_uppercase + "234567"), "aws_access_key_id = {}"), ("sk-" + some(48),
            "key {}."), ("ghp_" + some(36), "token: {}"),
        ("AIza" + some(35), "key={}"), (f"xoxb-{digits(rng, 12)}-{some(24)}", "SLACK={}"),
            ("eyJ" + some(20) + ".eyJ" + some(40) + "." + some(43), "Bearer {}")]
    )
    return value, ("密钥如下：" if language == "zh" else "") + frame


PLANTERS: dict[str, Callable[[R, str], Planted]] = {
    "email": email, "ip": ip, "phone": phone, "resident_id": resident_id, "card": card, "iban": iban, "bank": bank,
    "passport": passport, "secret": secret,
}
