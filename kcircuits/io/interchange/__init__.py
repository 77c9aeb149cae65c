"""Files that other circuit libraries write and read; one module per format, none needs torch."""
