"""What leaves the house: exported files, their cards, which states to choose, latencies measured elsewhere."""
