"""What several files of seeded bugs run under."""

from collections.abc import Iterator

import pytest
import torch

from qwill.model import ops


@pytest.fixture
def one_thread_without_kernels() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    ops.use_native(False)
    yield
    ops.use_native(True)
    torch.set_num_threads(threads)
