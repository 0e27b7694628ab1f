"""Jinja over the fields of an example, in a sandbox; a name that is not a field is an error, as in lm-eval."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from qwill.base.errors import ConfigError, DataError

_EXPRESSION = re.compile(r"\s*\{\{((?:(?!\}\}|\{\{).)*)\}\}\s*", re.DOTALL)


@lru_cache(maxsize=1)
def _environment() -> jinja2.Environment:
    # As lm-eval sets it up: nothing is trimmed, so that the same template gives the same text there.
    environment = ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)

    def regex_replace(text: str, pattern: str, replacement: str, count: int = 0) -> str:
        return re.sub(pattern, replacement, text, count=count)

    environment.filters["regex_replace"] = regex_replace
    environment.filters["tojson"] = lambda value, indent=None: json.dumps(value, ensure_ascii=False, indent=indent)
    return environment


@lru_cache(maxsize=256)
def _template(template: str) -> jinja2.Template:
    return _environment().from_string(template)


@lru_cache(maxsize=256)
def _expression(expression: str) -> Callable[..., Any]:
    return _environment().compile_expression(expression, undefined_to_none=False)


def check_template(name: str, template: str) -> None:
    """Raises ConfigError for a template with a mistake of syntax."""
    try:
        _template(template)
    except jinja2.TemplateSyntaxError as error:
        raise ConfigError(
            f"{name}: line {error.lineno} of the template is not valid Jinja ({error.message})."
        ) from None


def text_of(template: str, fields: Mapping[str, Any], where: str) -> str:
    """The text a template makes of an example's fields. Raises DataError that begins with `where`."""
    if "{" not in template:
        return template
    try:
        return _template(template).render(**fields)
    except (jinja2.TemplateError, ArithmeticError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise _unusable(where, error) from None


def value_of(template: str, fields: Mapping[str, Any], where: str) -> Any:
    """As `text_of`, but a template that is one expression, `{{ … }}`, gives its value: a number, a list, an object."""
    if not (found := _EXPRESSION.fullmatch(template)):
        return text_of(template, fields, where)
    try:
        value = _expression(found[1].strip())(**fields)
        if isinstance(value, jinja2.Undefined):
            str(value)  # raises what the name is
        return value
    except (jinja2.TemplateError, ArithmeticError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise _unusable(where, error) from None


def _unusable(where: str, error: Exception) -> DataError:
    if isinstance(error, jinja2.UndefinedError):
        return DataError(f"{where} can't be rendered: {error.message}; the example has no such field.")
    return DataError(f"{where} can't be rendered ({type(error).__name__}: {error}).")
