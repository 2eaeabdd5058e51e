"""From sources to shards with Ray Data, and the shards themselves. `raydc.data.shards` needs no Ray."""
