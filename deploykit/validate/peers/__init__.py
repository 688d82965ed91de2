"""Other runtimes that `validate --against` runs an artifact in."""
