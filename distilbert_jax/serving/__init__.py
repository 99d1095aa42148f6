"""The endpoint: models behind HTTP, in the forms that clients of Hugging Face, text-embeddings-inference and OpenAI speak."""
