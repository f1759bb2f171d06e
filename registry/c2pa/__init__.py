"""The C2PA Soft Binding Resolution API: from a suspect image to the signed manifest of the copy."""
