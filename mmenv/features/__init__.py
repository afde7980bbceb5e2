"""Feature groups: what a policy observes. One file each, which registers itself.

Scales are fixed and physical (price units of the market, lots, fractions of a limit), so weights never drift
from a normaliser's statistics. A value is computed from events up to its own time, and clipped to its bounds.

May import: `mmenv.engine`, `mmenv.market.base`.
"""
