"""From sources to shards with Ray Data, and the shards themselves.

`prepared`, `shards` and `manifest` do not import Ray, because workers read data sets through them.
"""
