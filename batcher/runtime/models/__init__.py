"""What is served: one `ServedModel` per name and version, found by the `ModelRegistry`."""
