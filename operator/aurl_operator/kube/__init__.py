"""Talks to the Kubernetes API: client, informer, store, work queue, leader election, events."""
