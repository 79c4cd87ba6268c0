"""Hugging Face's and OpenAI's protocols: the bodies of requests and answers."""
