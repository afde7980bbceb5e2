"""What is known of the value of `basket`, several assets quoted together.

The exact optimum over time and all positions by dynamic programming (`exact`), closed forms (`closed_forms`)
and the optimum of each asset alone; `policy` registers those that act in the environment, `ladder` puts them
side by side.

May import: `mmenv`, `policies.base`, `policies.optimal`, `policies.solver`.
"""

from policies.basket import policy as policy
