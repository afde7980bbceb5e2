"""What is known of the value of `book`: rules, programmes, an upper bound, and the ladder of them all.

Our orders do not move the others, so every policy is played over the same recorded paths (`paths`), outside
the environment and a thousand times faster (`orders`). Here live the rules that are searched (`rules`), the
dynamic programmes (`programme`), the bound by information relaxation (`bound`), all of them side by side
(`ladder`), and those that can act in the environment (`policy`, which registers them).

May import: `mmenv`, `policies.base`. Only `paths` knows the inside of the market.
"""

from policies.book import policy as policy
