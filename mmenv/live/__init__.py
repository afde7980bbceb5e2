"""Live markets: the feed, orders, the recorder, and a local exchange that speaks Binance to test them."""
