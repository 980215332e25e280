"""HTTP of the operator: health, metrics and the validating webhook."""
