"""What a node does for its operator, beyond serving: each verb in its own file."""
