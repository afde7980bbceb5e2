"""Long work: independent jobs on processes or a cluster, and where results come from.

May live here: what runs jobs, whatever they are, and what a result says of its origin.
May import: `mmenv.checks` and `mmenv.files`.
"""
