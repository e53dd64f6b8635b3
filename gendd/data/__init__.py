"""Images and labels, whatever the tree."""
