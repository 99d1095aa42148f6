"""Ground floor, which knows nothing of models: files, configs on disk, the hub, the machine, progress, tables, arguments."""
