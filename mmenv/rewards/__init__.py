"""Reward terms: what a step adds to the reward. One file each, which registers itself.

May import: `mmenv.engine`.
"""
