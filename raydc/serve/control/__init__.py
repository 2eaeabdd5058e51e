"""Controls endpoints from the driver's process: deploys, changes versions, waits for replicas."""
