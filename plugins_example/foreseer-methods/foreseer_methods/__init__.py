"""The field's caching methods as policies of foreseer: one file a method, each from its paper."""
