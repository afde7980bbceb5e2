"""Bybit as the local exchange speaks it: USDT perpetuals, API version 5.

Protocol: https://bybit-exchange.github.io/docs/v5/intro
"""
