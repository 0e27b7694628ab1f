"""A recipe: one YAML file that says what every stage of a run is to be made with."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwill.base.config import apply_override, load_yaml, nearest, parse
from qwill.base.errors import ConfigError
from qwill.base.resolve import resolve
from qwill.base.stage import Stage
from qwill.workflow.stages import STAGES, load

if TYPE_CHECKING:
    from qwill.data.registry_sources import Package

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_SECTION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")  # an override's dots part a section from its settings
LOGS = "logs"  # the folder of a run in which the stages' logs are


@dataclass(frozen=True)
class Head:
    """What stands in a recipe before its sections.

    `threads` is part of every recipe id (it changes the order of sums), so it is a number and not "all there are".
    `folder` is where the artifacts go: `runs/NAME` unless it is given; relative to where the command is started.
    """

    name: str
    seed: int = 0
    threads: int = 2
    folder: str | None = None


@dataclass(frozen=True)
class SectionHead:
    """What every section may hold beside its stage's own settings; none of it but `seed` can change a number."""

    seed: int | None = None
    budget_s: float | None = None
    inputs: dict[str, str] = field(default_factory=dict)
    uses: str | None = None


@dataclass(frozen=True)
class Section:
    """One stage of a recipe with its settings, called `name`: as the stage, unless the section says `uses: STAGE`.

    `given` maps an input's name to a finished artifact from elsewhere, `wired` to the section that makes it, where that
    has another name than the input.
    """

    name: str
    stage: Stage
    config: Any
    needs: tuple[str, ...]
    given: dict[str, Path]
    wired: dict[str, str]
    seed: int
    budget_s: float | None

    def maker(self, needed: str) -> str:
        """The section whose artifact the input `needed` is, if it isn't given."""
        return self.wired.get(needed, needed)

    def packages(self) -> list[Package]:
        """The packages that the stage will read; settings that name any have a method `packages`."""
        return self.config.packages() if hasattr(self.config, "packages") else []


@dataclass(frozen=True)
class Recipe:
    """A recipe read and checked: its sections stand in the order in which they are made."""

    path: Path
    name: str
    seed: int
    threads: int
    folder: Path
    sections: tuple[Section, ...]

    def section(self, name: str) -> Section | None:
        """The section called `name`, if the recipe has it."""
        return next((section for section in self.sections if section.name == name), None)


def load_recipe(
    path: Path, overrides: Sequence[str] = (), stages: Sequence[Stage] = STAGES, only: str | None = None
) -> Recipe:
    """Read a recipe, put `section.key=value` overrides over it, and check all of it.

    `only` names the one stage that will be made: an override whose first word is neither a section nor a key of the
    head then means that stage's section (`lr=0.1` for `sft.lr=0.1`): the one called as the stage, or else the only one
    that uses it. No override adds a section of a stage that others use.

    Raises ConfigError for a file that cannot be read, an unknown section or key (with the nearest that exists), a
    value of the wrong type, an override that could mean several sections, and an input that the recipe neither makes
    nor names.
    """
    # A section with nothing in it is one with every default.
    raw = {key: {} if value is None else value for key, value in load_yaml(path).items()}
    head_keys = set(Head.__dataclass_fields__)
    for override in overrides:
        apply_override(raw, _full_key(path, override, only, raw, stages))
    kinds = {key: _stage_of(path, key, value, sorted(head_keys), stages) for key, value in raw.items()
             if key not in head_keys}  # fmt: skip
    head = parse(Head, {key: value for key, value in raw.items() if key in head_keys}, str(path))
    if not _NAME.fullmatch(head.name):
        raise ConfigError(
            f"{path}: name is '{head.name}', but it becomes a folder: use letters, digits, '.', '_' and '-'."
        )
    if head.threads < 1:
        raise ConfigError(f"{path}: threads must be 1 or more, and {head.threads} was given.")
    if not kinds:
        raise ConfigError(f"{path}: the recipe has no stage; add a section such as '{stages[0].name}:'.")
    found = [_section(path, name, stage, raw[name], head, kinds) for stage in stages for name in kinds
             if kinds[name] is stage]  # fmt: skip
    sections = _in_order(path, found)
    folder = Path(head.folder) if head.folder else Path("runs") / head.name
    return Recipe(path, head.name, head.seed, head.threads, folder, sections)


def _full_key(path: Path, override: str, only: str | None, raw: dict[str, Any], stages: Sequence[Stage]) -> str:
    head = re.split(r"[.=]", override, maxsplit=1)[0]
    named = any(stage.name == head for stage in stages)
    stage = head if named else only
    if stage is None or head in raw or head in Head.__dataclass_fields__:
        return override
    users = [str(key) for key, value in raw.items() if isinstance(value, dict) and value.get("uses") == stage]
    tail = override[len(head) :] if named else f".{override}"
    if stage in raw or not users:
        return f"{stage}{tail}"
    if len(users) == 1 and not named:
        return f"{users[0]}{tail}"
    use = "uses" if len(users) == 1 else "use"
    raise ConfigError(
        f"{path}: {override!r}: there is no section '{stage}', and {' and '.join(users)} {use} that stage; name the "
        f"section: {users[0]}{tail}."
    )


def _stage_of(path: Path, key: str, raw: Any, head_keys: Sequence[str], stages: Sequence[Stage]) -> Stage:
    """The stage of the section `key`: the one that it `uses`, or else the one of its name."""
    uses = raw.get("uses") if isinstance(raw, dict) else None
    if uses is None:
        stage = next((stage for stage in stages if stage.name == key), None)
        if stage is None:
            raise ConfigError(_unknown_section(path, str(key), head_keys, stages))
        return stage
    if not isinstance(key, str) or not _SECTION.fullmatch(key):
        raise ConfigError(f"{path}: a section is called '{key}', but that becomes a folder and the first word of "
                          "overrides: use letters, digits, '_' and '-'.")  # fmt: skip
    if key.casefold() == LOGS:
        raise ConfigError(f"{path}: a section is called '{key}', but that folder holds the run's logs; call it "
                          "otherwise.")  # fmt: skip
    if any(stage.name == key and stage.name != uses for stage in stages):
        raise ConfigError(f"{path}: {key} is the name of a stage, and the section uses {uses}; call it otherwise.")
    stage = next((stage for stage in stages if stage.name == uses), None)
    if stage is None:
        hint = nearest(str(uses), [stage.name for stage in stages])
        raise ConfigError(f"{path}: {key}.uses names '{uses}', which is no stage; {hint}")
    return stage


def _section(path: Path, name: str, stage: Stage, raw: Any, head: Head, made: Collection[str]) -> Section:
    where = f"{path}: {name}"
    common_keys = set(SectionHead.__dataclass_fields__)
    common, own = raw, raw
    if isinstance(raw, dict):
        common = {key: value for key, value in raw.items() if key in common_keys}
        own = {key: value for key, value in raw.items() if key not in common_keys}
    general = parse(SectionHead, common, where)
    config = parse(load(stage.config), own, where)
    needs = stage.inputs if isinstance(stage.inputs, tuple) else tuple(stage.inputs(config))
    needs += tuple(name for name in stage.optional if name in general.inputs or name in made)
    for needed in general.inputs:
        if needed not in needs:
            hint = f"it needs {', '.join(needs)}" if needs else "it needs none"
            hint += f" and takes {', '.join(stage.optional)}" if stage.optional else ""
            raise ConfigError(f"{where}.inputs: the stage has no input '{needed}'; {hint}.")
    # A section of this recipe goes before anything else that has its name.
    wired = {needed: ref for needed, ref in sorted(general.inputs.items()) if ref in made}
    given = {needed: resolve(ref) for needed, ref in sorted(general.inputs.items()) if ref not in made}
    seed = head.seed if general.seed is None else general.seed
    return Section(name, stage, config, needs, given, wired, seed, general.budget_s)


def _in_order(path: Path, sections: Sequence[Section]) -> tuple[Section, ...]:
    """Each behind what it needs; else as the table of stages has them, and of one stage as the file does."""
    names, made = {one.name for one in sections}, dict[str, Section]()
    for one in sections:
        for needed in one.needs:
            if needed not in one.given and one.maker(needed) not in names:
                raise ConfigError(
                    f"{path}: the stage {one.name} needs '{needed}', which the recipe neither makes nor "
                    f"names; add a section '{needed}:', or 'inputs: {{{needed}: FOLDER}}' to {one.name}."
                )
    left = list(sections)
    while left:
        ready = (s for s in left if all(n in s.given or s.maker(n) in made for n in s.needs))
        if (following := next(ready, None)) is None:
            raise ConfigError(
                f"{path}: {' and '.join(s.name for s in left)} wait for each other or for themselves; change inputs."
            )
        made[following.name] = following
        left.remove(following)
    return tuple(made.values())


def _unknown_section(path: Path, key: str, head_keys: Sequence[str], stages: Sequence[Stage]) -> str:
    # People know a stage by its command (`pretrain`) as well as by what it makes (`base`).
    for stage in stages:
        if key == stage.verb:
            return f"{path}: unknown section '{key}'; what `qwill {key}` makes is called '{stage.name}'."
    return f"{path}: unknown section '{key}'; {nearest(key, [*head_keys, *(stage.name for stage in stages)])}"
