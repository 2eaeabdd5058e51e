"""A bundle: a trained model with everything that predicting needs, in one folder.

Written by the driver, read by evaluation and replicas.
"""

from raydc.bundle.folder import NUM_THREADS, Bundle, load, write

__all__ = ["NUM_THREADS", "Bundle", "load", "write"]
