"""Rows, as text or Parquet, with the journal by which a run that was stopped goes on."""
