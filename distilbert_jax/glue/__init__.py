"""The paper's GLUE tables on top of fine-tuning: sweep, summary, table, bootstrap, submission."""
