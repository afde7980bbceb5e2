"""Commands that train many policies and compare them: studies, sweeps, populations, members of families.

May import: everything of `train` but `train.signals`.
"""
