"""`make screenshots`: pictures of the dashboards."""
