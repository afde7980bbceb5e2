"""Recurrent PPO, which knows no market and no settings of a run. May import: `policies.network`, `mmenv`."""
