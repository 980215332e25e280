"""How the ranks of a job find each other, agree, share the model and say what went wrong between them."""
