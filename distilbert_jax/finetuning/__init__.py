"""Fine-tuning on labelled tasks: data sets, batches, objective, metrics, predictions, runs."""
