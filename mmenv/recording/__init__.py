"""Market data as training sets for signals: recorded features, windows over them, and labels.

May import: `mmenv.desk` and what stands below it.
"""
