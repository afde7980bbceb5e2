"""Recorded markets: readers of captures, the store, and tapes to replay."""
