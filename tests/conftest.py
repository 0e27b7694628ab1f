"""For every test: hypothesis without deadlines (no timed assertions), one torch thread a worker, no hub."""

import os
import signal

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# A shell script that starts the tests with `&` has them ignore Ctrl-C, and programs that they start would, too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

from hypothesis import settings

# CI draws the same examples every time, so that what it says is about the change; elsewhere new ones are drawn.
settings.register_profile("qwill", deadline=None, print_blob=True, derandomize=bool(os.environ.get("CI")))
settings.load_profile("qwill")
