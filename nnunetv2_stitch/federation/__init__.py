"""Several parties train one network in rounds: what a party does, and guided merging as a Flower app.

Only `app`, `client_app`, `server_app`, `replies` and `strategy` need Flower.
"""
