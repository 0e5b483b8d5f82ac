"""What runs next: requests, the queue, the running batch, step plans and their results. Standard library only."""
