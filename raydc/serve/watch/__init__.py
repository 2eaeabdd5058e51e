"""Observes a replica, inside its process: the access log and the metrics of an endpoint."""
