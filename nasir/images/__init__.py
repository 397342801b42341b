"""Image files as pixels, without torch: in this process, or in many at once."""
