"""What a run writes down: events, metrics, its lease, and where its time went."""
