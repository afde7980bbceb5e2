"""What each command of `neuralmm` is given, apart from the work: so `--help` is there before any library is.

May import: of `mmenv` only `checks`, `venue.settings` and `measure.options`, which load none either.
"""
