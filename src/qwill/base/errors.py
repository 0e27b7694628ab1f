"""Errors a user can act on."""


class QwillError(Exception):
    """One sentence that says what is wrong and what to do; the command line prints it and exits 2."""


class ConfigError(QwillError): ...


class SourceError(QwillError): ...


class DataError(QwillError): ...


class ModelError(QwillError): ...


class CheckpointError(QwillError): ...


class ArtifactError(QwillError): ...


class TrainingError(QwillError): ...
