"""Images and labels, for both families."""
