from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Constraint:
    kind: Literal["json_schema", "json_object", "regex", "lark", "choice", "tools"]
    spec: str
    thinking: Literal["none", "allowed", "open"] = "none"


def check(constraint: Constraint) -> None:
    return None
