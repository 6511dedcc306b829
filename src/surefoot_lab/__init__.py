"""The lab around surefoot: train, compare, report.

The library (`surefoot`) knows nothing of this package; this package may use everything of the
library. Importing it is cheap: torch comes in when a command needs it.
"""
