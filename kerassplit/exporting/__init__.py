"""What exporting a split consists of, apart from the formats: the folder, its manifest, the comparison, the receipt."""
