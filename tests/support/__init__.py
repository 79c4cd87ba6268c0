"""What the tests share: tiny models, inputs as users write them, faulty storage, runs that are interrupted."""
