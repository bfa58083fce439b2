"""Who is calling: credentials, what they are good for, and the tickets that shards check."""
