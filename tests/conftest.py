"""For all tests: one thread a process, and no look at what imports have made when garbage is collected."""

from __future__ import annotations

import gc
import os

# Before torch is imported. As many processes as there are processors test: more threads would wait at work.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_finish() -> None:
    """Set aside the objects of torch and of others, through which a collection takes a third of a second."""
    gc.collect()
    gc.freeze()
