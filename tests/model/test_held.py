"""Projections rounded after loading: what `load(weights=…)` holds, and that nothing else is touched."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qwill.base.errors import ModelError
from qwill.engine import native
from qwill.engine.engine import Engine
from qwill.engine.engine_settings import EngineSettings, blocks_in
from qwill.engine.language_model import load
from qwill.model.files import load_model, save_model
from qwill.model.held import hold, multiply_out
from qwill.model.project import Quantized
from qwill.model.quantize import Scheme, quantize, quantize_folder
from tests.engine.tiny import FOLDER_TOKENIZER if False else None
