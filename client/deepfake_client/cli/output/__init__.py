"""What the commands write and show: rows, summaries, tables, progress."""
