"""The engine: blocks of environments, worked through by compiled stages. What lives here knows no market.

May import: nothing of `mmenv`.
"""

from mmenv.engine.cache import ensure_cache, stamp_sources
from mmenv.engine.compiler import watch
from mmenv.engine.lookups import keep_lookups

ensure_cache()  # before anything is compiled
stamp_sources()
keep_lookups()
watch()
