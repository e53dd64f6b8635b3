"""Images and labels, whatever the family."""
