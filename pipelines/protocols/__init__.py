"""What clients of a service speak: bodies of requests to items, predictions to bodies of answers."""
