"""The engine: blocks of environments, worked through by compiled stages. What lives here knows no market.

May import: nothing of `mmenv`.
"""
