"""Markets: where events come from. One file each, which registers itself; the book has its stages beside it.

May import: `mmenv.engine`, `mmenv.data`, `mmenv.venue`.
"""
