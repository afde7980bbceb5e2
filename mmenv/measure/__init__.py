"""Measures: what a market is like and what a market maker did in it, each figure with an interval that holds.

May import: `mmenv.data`, `mmenv.venue`, `mmenv.market`, `mmenv.config`, `mmenv.desk`.
"""
