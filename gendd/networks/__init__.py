"""Creation of networks by name, their weights and their inference cost."""
