"""Places that take orders, one folder each, which registers what it has; `base` says what a venue is.

They may import `mmenv.data` and what a desk asks of them: `mmenv.live.market_feed` and `mmenv.live.orders`.
"""
