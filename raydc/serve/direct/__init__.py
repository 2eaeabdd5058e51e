"""Runs in a replica: the direct path from uvicorn to raydc, which reaches into private parts of Ray Serve."""
