"""Live markets, on paper and with real orders: a desk of one symbol, and what connects it to a venue.

What only a desk on wall time needs lives here. `session`, and what it stands on, has no input or output;
`desk` and `router` have; `venues` holds one folder for each place that takes orders. It may import all of
mmenv but `mmenv.exchange`, and works without hftbacktest.
"""
