"""What came out: held-out masked LM, GLUE, speed, reports."""
