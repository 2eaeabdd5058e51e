"""Runs in a replica: the access log and the metrics of an endpoint."""
