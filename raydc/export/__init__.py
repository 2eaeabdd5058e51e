"""Models in the formats of other libraries: written, loaded again and compared. In the driver."""
