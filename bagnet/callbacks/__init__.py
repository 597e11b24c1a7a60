"""What happens around the training, one concern a file."""
