"""A local exchange that speaks Binance and plays recorded tapes, to try live code on without a network.

What a venue does, and what brings a live desk to one on this machine, lives here. It may import `mmenv.data`,
`mmenv.venue` and `mmenv.live`; nothing but scripts and tests imports it.
"""
