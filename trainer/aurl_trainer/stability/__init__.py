"""What keeps a run healthy: updates that would harm it are left out, within a budget."""
