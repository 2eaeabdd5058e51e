"""Ray Train: the trainer, its scaling and failure policies, standby processes, peer memory."""
