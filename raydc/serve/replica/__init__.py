"""A replica's core, without HTTP and Ray: loaded versions, admission, batches, shadow."""
