"""Actions: what a policy decides, and how it becomes quotes. One file each, which registers itself.

May import: `mmenv.engine`.
"""
