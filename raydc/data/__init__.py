"""From sources to shards with Ray Data, and the shards themselves.

`prepared`, `shards` and `manifest` reach no Ray: workers read data sets through them.
"""
