"""Runs in a replica: what bodies of requests and responses mean. Pure functions."""
