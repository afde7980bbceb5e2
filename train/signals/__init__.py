"""The command that trains signals and judges them. May import: `train.settings`, `policies`, `mmenv`."""
