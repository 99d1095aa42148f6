"""The demo's documents and generated tasks."""
