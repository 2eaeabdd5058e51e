"""Runs in the process of the driver: deploys an application, changes its version, waits for it."""
