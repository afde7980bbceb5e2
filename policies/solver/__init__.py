"""The exact solution of the solvable markets: chains of what a policy knows, and one backward recursion.

`policies.optimal` makes policies of it. May import: `mmenv`, `policies.base`.
"""
