"""A trained model with everything that answering needs."""

from raydc.bundle.folder import NUM_THREADS, Bundle, load, write

__all__ = ["NUM_THREADS", "Bundle", "load", "write"]
