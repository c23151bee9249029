"""The loops that keep the queue healthy: promote, reap, floors, roll-up, partitions, prune."""
