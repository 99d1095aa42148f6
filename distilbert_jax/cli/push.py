"""Models for the Hugging Face hub: `distilbert-jax push`."""

from dataclasses import dataclass

import tyro

from distilbert_jax.base.config_io import to_values
from distilbert_jax.cli.arguments import print_json, running


@dataclass(frozen=True)
class PushCommand:
    """A model's directory to the Hugging Face hub: config, weights, tokenizer and card, and nothing else that lies there.

    distilbert-jax push runs/demo/student/model USER/tiny-student --private

    The token is that of HF_TOKEN or of `hf auth login`, and needs the right to write. A repository that is not there is made.
    """

    model: tyro.conf.Positional[str]  # HF directory, such as RUN/model
    repo: tyro.conf.Positional[str]  # USER/NAME on the hub
    private: bool = False  # of a new repository: for its owners alone
    message: str = ""  # of the commit
    json: bool = False  # one JSON object

    def run(self) -> None:
        from distilbert_jax.training.push import push_to_hub

        pushed = push_to_hub(self.model, self.repo, private=self.private, message=self.message)
        if self.json:
            print_json(to_values(pushed))
        else:
            print(f"{pushed.url}  {', '.join(pushed.files)}")


COMMANDS = {"push": running(PushCommand)}
