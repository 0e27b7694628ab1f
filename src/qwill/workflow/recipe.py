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


@dataclass(frozen=True)
class Section:
    """One stage of a recipe with its settings. `given` maps an input's name to a finished artifact from elsewhere."""

    stage: Stage
    config: Any
    needs: tuple[str, ...]
    given: dict[str, Path]
    seed: int
    budget_s: float | None

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
        """The section of the stage called `name`, if the recipe has it."""
        return next((section for section in self.sections if section.stage.name == name), None)


def load_recipe(
    path: Path, overrides: Sequence[str] = (), stages: Sequence[Stage] = STAGES, only: str | None = None
) -> Recipe:
    """Read a recipe, put `section.key=value` overrides over it, and check all of it.

    `only` names the one stage that will be made: an override whose first word is neither a section nor a key of the
    head then means that stage's section (`lr=0.1` for `sft.lr=0.1`).

    Raises ConfigError for a file that cannot be read, an unknown section or key (with the nearest that exists), a
    value of the wrong type, and an input that the recipe neither makes nor names.
    """
    names = [stage.name for stage in stages]
    overrides = [_full_key(override, only, names) for override in overrides]
    # A section with nothing in it is one with every default.
    raw = {key: {} if value is None else value for key, value in load_yaml(path).items()}
    for override in overrides:
        apply_override(raw, override)
    head_keys = set(Head.__dataclass_fields__)
    for key in raw:
        if key not in head_keys and key not in names:
            raise ConfigError(_unknown_section(path, str(key), sorted(head_keys), stages))
    head = parse(Head, {key: value for key, value in raw.items() if key in head_keys}, str(path))
    if not _NAME.fullmatch(head.name):
        raise ConfigError(
            f"{path}: name is '{head.name}', but it becomes a folder: use letters, digits, '.', '_' and '-'."
        )
    if head.threads < 1:
        raise ConfigError(f"{path}: threads must be 1 or more, and {head.threads} was given.")
    sections = tuple(_section(path, stage, raw[stage.name], head, raw) for stage in stages if stage.name in raw)
    if not sections:
        raise ConfigError(f"{path}: the recipe has no stage; add a section such as '{names[0]}:'.")
    _check_inputs(path, sections)
    folder = Path(head.folder) if head.folder else Path("runs") / head.name
    return Recipe(path, head.name, head.seed, head.threads, folder, sections)


def _full_key(override: str, only: str | None, names: Sequence[str]) -> str:
    head = re.split(r"[.=]", override, maxsplit=1)[0]
    if only is None or head in names or head in Head.__dataclass_fields__:
        return override
    return f"{only}.{override}"


def _section(path: Path, stage: Stage, raw: Any, head: Head, made: Collection[str]) -> Section:
    where = f"{path}: {stage.name}"
    common_keys = set(SectionHead.__dataclass_fields__)
    common, own = raw, raw
    if isinstance(raw, dict):
        common = {key: value for key, value in raw.items() if key in common_keys}
        own = {key: value for key, value in raw.items() if key not in common_keys}
    general = parse(SectionHead, common, where)
    config = parse(load(stage.config), own, where)
    needs = stage.inputs if isinstance(stage.inputs, tuple) else tuple(stage.inputs(config))
    needs += tuple(name for name in stage.optional if name in general.inputs or name in made)
    for name in general.inputs:
        if name not in needs:
            hint = f"it needs {', '.join(needs)}" if needs else "it needs none"
            hint += f" and takes {', '.join(stage.optional)}" if stage.optional else ""
            raise ConfigError(f"{where}.inputs: the stage has no input '{name}'; {hint}.")
    given = {name: resolve(ref) for name, ref in sorted(general.inputs.items())}
    seed = head.seed if general.seed is None else general.seed
    return Section(stage, config, needs, given, seed, general.budget_s)


def _check_inputs(path: Path, sections: Sequence[Section]) -> None:
    made: set[str] = set()
    for section in sections:
        for name in section.needs:
            if name not in made and name not in section.given:
                raise ConfigError(
                    f"{path}: the stage {section.stage.name} needs '{name}', which the recipe neither makes nor "
                    f"names; add a section '{name}:', or 'inputs: {{{name}: FOLDER}}' to {section.stage.name}."
                )
        made.add(section.stage.name)


def _unknown_section(path: Path, key: str, head_keys: Sequence[str], stages: Sequence[Stage]) -> str:
    # People know a stage by its command (`pretrain`) as well as by what it makes (`base`).
    for stage in stages:
        if key == stage.verb:
            return f"{path}: unknown section '{key}'; what `qwill {key}` makes is called '{stage.name}'."
    return f"{path}: unknown section '{key}'; {nearest(key, [*head_keys, *(stage.name for stage in stages)])}"
