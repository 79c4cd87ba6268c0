"""What clients send and receive: Hugging Face's and OpenAI's bodies of requests and answers."""
