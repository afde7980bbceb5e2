"""The desk: one step of n environments, with its stages in their order, and the networks beside the policy.

May import: `mmenv.config` and all below it.
"""
