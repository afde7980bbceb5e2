"""Stages that every market shares: limits, orders held and followed, ledger, start and end of episodes.

May import: `mmenv.engine`, `mmenv.signals`.
"""
