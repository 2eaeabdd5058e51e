"""The direct path from uvicorn to raydc, through private parts of Ray Serve. Runs in a replica.

`selection` installs it and decides at start whether it is taken; without it nothing of this folder
but `decision` is imported. Every private name used here is in the tables of
`raydc.engine.internals`.
"""
