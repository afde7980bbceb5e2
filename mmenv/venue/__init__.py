"""Places that take a desk's orders and say what became of them: replayed tapes and paper trading, and what
live desks share with them. Where hftbacktest is needed is said in `hft_calls` and `hft`; nothing else here
imports it.

May import: `mmenv.data`, `mmenv.engine` and the modules beside this folder that import nothing of ours.
"""
