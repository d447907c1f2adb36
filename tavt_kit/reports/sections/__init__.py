"""The report's sections, one module each: records in, blocks out."""
