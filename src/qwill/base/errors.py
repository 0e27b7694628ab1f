"""Errors a user can act on."""

import re

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class QwillError(Exception):
    """One sentence that says what is wrong and what to do; the command line prints it and exits 2.

    What a message quotes from a file may hold line ends or terminal codes: they are shown escaped, on one line.
    """

    def __str__(self) -> str:
        return _CONTROL.sub(lambda found: found.group().encode("unicode_escape").decode(), super().__str__())


class ConfigError(QwillError): ...


class SourceError(QwillError): ...


class DataError(QwillError): ...


class ModelError(QwillError): ...


class CheckpointError(QwillError): ...


class ArtifactError(QwillError): ...


class TrainingError(QwillError): ...


class StateError(QwillError): ...
