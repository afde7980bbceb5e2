"""Recorded markets: readers of captures, the store of tapes, and what a replay reads of them.

May live here: what turns recorded feeds into tapes and tapes into events, one file a format in `formats`.
May import: `mmenv.checks`, `mmenv.engine`, `mmenv.files`, `mmenv.registry` and `mmenv.times`.
"""

import mmenv.engine  # noqa: F401  it finds a place for compiled code before anything here is compiled
