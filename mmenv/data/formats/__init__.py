"""Importers of recorded captures, one file a format, each registered by name.

May live here: an importer, and what it alone or its like needs to read its files.
May import: `mmenv.data` below `mmenv.data.grid`, and `mmenv.registry`.
"""
