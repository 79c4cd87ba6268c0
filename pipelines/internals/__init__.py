"""The private names of transformers, tokenizers and torch that dray uses, each behind a function that says its purpose."""
