"""The decisions of a sweep as a fold over its results: no clock, no worker, no order of arrival.

Pure; used by the driver of a sweep.
"""

from raydc.search.fold import DecisionFold, decide
from raydc.search.method import Method, rung_epochs

__all__ = ["DecisionFold", "Method", "decide", "rung_epochs"]
