"""What trains, judges and exports policies: a file for each command, and what they share.

May import: `policies`, `mmenv`.
"""
