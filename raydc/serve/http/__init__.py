"""Runs in a replica: requests and responses over HTTP, authentication, routes, the page."""
