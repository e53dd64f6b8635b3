"""What runs leave to be read: metrics while they train, then tables and pictures that compare them."""
