"""What a framework needs beyond its arrays, imported on demand."""
