"""What each mode minimises: from a micro-batch to the loss of the model, and the second player's update."""
