"""Files on local disk and in object storage, with retries."""
