"""Parts of the training loop: batches, resume, recovery, supervision and reporting."""
