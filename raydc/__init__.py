"""raydc: an elastic trainer on Ray, one YAML file from a data set to an answering endpoint."""
