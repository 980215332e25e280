"""The Kubernetes API: client, informer, store, work queue, leader election and events, as in client-go."""
