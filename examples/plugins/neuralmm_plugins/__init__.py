"""One plug-in of each kind, one file each; `pyproject.toml` beside this folder offers them by name."""
