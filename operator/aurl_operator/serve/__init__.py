"""What the operator serves: health, metrics and the validating webhook."""
