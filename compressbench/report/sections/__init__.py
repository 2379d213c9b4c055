"""The sections of the page, a file each: its figures, its tables, and ``section(panel, suffix)`` of both."""
