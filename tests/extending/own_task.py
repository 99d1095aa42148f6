"""A labelled task of one's own: rows are in <data>/weather/{train,validation}.parquet, with the columns text and label."""

from distilbert_jax import FinetuneConfig, Task, register_task

register_task(Task("weather", "Weather", columns=("text",), labels=("dry", "rain"), metrics=("accuracy",)))


def get_config() -> FinetuneConfig:
    return FinetuneConfig(task="weather", data="data")
